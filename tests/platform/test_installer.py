"""The installer behind ``make``: it does what is needed, once, and fails with one clear line."""

from __future__ import annotations

import ast
import errno
import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools"


@pytest.fixture(scope="module")
def installer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("installer", TOOLS / "installer.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_checkout(folder: Path, requirements: str = "# nothing\n") -> Path:
    shutil.copytree(TOOLS, folder / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "requirements.txt").write_text(requirements)
    (folder / "requirements-dev.txt").write_text("-r requirements.txt\n")
    (folder / "platform").mkdir()
    return folder


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in a path with a space, whose .venv was made after an interrupted attempt."""
    root = make_checkout(tmp_path_factory.mktemp("a checkout"))
    (root / ".venv" / "bin").mkdir(parents=True)
    (root / ".venv" / "pyvenv.cfg").write_text("home = /nowhere\n")
    result = install(root, "--dev")
    assert result.returncode == 0, result.stderr
    return root


def install(root: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # Only the index named here: the machine's own configuration must not answer for it.
    variables = {**os.environ, "PIP_CONFIG_FILE": os.devnull, **environment}
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        variables.pop(name, None)
    argv = [sys.executable, str(root / "tools" / "install.py"), *arguments]
    return subprocess.run(argv, capture_output=True, text=True, env=variables, check=False)


def assert_one_line(result: subprocess.CompletedProcess[str], words: str) -> None:
    assert result.returncode != 0
    assert result.stderr.startswith("curtail: ")
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_second_run_does_nothing(installed: Path) -> None:
    for arguments in ((), ("--dev",)):
        result = install(installed, *arguments)
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_the_environment_finds_both_folders_from_anywhere(installed: Path, tmp_path: Path) -> None:
    script = "import sys; print('\\n'.join(sys.path))"
    argv = [str(installed / ".venv" / "bin" / "python"), "-c", script]
    path = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=tmp_path).stdout.splitlines()
    assert str(installed) in path
    assert str(installed / "platform") in path


def test_a_half_made_environment_is_made_anew(installed: Path) -> None:
    assert "/nowhere" not in (installed / ".venv" / "pyvenv.cfg").read_text()
    argv = [str(installed / ".venv" / "bin" / "python"), "-m", "pip", "--version"]
    assert subprocess.run(argv, capture_output=True, check=False).returncode == 0


def test_changed_requirements_are_noticed(tmp_path: Path, installer: ModuleType) -> None:
    root = make_checkout(tmp_path)
    before = installer.digest(root, installer.RUN)
    (root / "requirements.txt").write_text("# something else\n")
    assert installer.digest(root, installer.RUN) != before


def test_a_moved_checkout_is_noticed(tmp_path: Path, installer: ModuleType) -> None:
    here, there = make_checkout(tmp_path / "here"), make_checkout(tmp_path / "there")
    assert installer.digest(here, installer.DEV) != installer.digest(there, installer.DEV)


def test_no_network_is_one_line(tmp_path: Path) -> None:
    root = tmp_path / "checkout"
    make_checkout(root, "curtail-needs-this-package==1\n")
    # An environment that works already, with our own pip: making one takes seconds.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root / ".venv")], check=True)
    packages = next((root / ".venv").glob("lib/python*/site-packages"))
    (packages / "pip.pth").write_text(sysconfig.get_path("purelib") + "\n")
    result = install(root, PIP_INDEX_URL="http://127.0.0.1:9/simple")
    assert_one_line(result, "no network: pip cannot reach the package index")


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_a_missing_module_of_python_is_one_line(
    tmp_path: Path,
    installer: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    module: str,
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(installer, "ROOT", make_checkout(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else find(name))
    assert installer.main([]) == 1
    error = capsys.readouterr().err
    assert f"has no {module} module; install it" in error
    assert error.count("\n") == 1


def test_a_foreign_folder_in_the_way_is_kept(tmp_path: Path) -> None:
    root = make_checkout(tmp_path)
    (root / ".venv").mkdir()
    (root / ".venv" / "letter.txt").write_text("mine")
    assert_one_line(install(root), "is in the way and no virtual environment of ours")
    assert (root / ".venv" / "letter.txt").exists()


def test_a_full_disk_is_one_line(
    tmp_path: Path, installer: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(venv: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(venv))

    monkeypatch.setattr(installer, "ROOT", make_checkout(tmp_path))
    monkeypatch.setattr(installer, "_make_venv", refuse)
    assert installer.main([]) == 1
    assert capsys.readouterr().err == f"curtail: no space left for {tmp_path / '.venv'}\n"


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
            "no space left",
        ),
        (
            "WARNING: Retrying ... NewConnectionError(...)\nERROR: No matching distribution found for torch",
            "no network",
        ),
        ("PermissionError: [Errno 13] Permission denied: '/x'", "permission denied while writing"),
        (
            "ERROR: No matching distribution found for torch==2.13.0",
            "there is no build of torch==2.13.0 for Python",
        ),
        ("hello\nERROR: something new\n", "the installation failed: ERROR: something new"),
        ("", "the installation failed: nothing was printed"),
    ],
)
def test_what_pip_says_becomes_one_line(installer: ModuleType, output: str, words: str) -> None:
    message = installer.explain(output, Path("/x/.venv"))
    assert message.startswith(words)
    assert "\n" not in message


def test_an_old_python_is_told_what_is_needed() -> None:
    script = (
        "import sys, runpy; sys.version_info = (3, 8, 18)\n"
        f"runpy.run_path({str(TOOLS / 'install.py')!r}, run_name='__main__')"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "Python 3.11 or newer is needed" in result.stderr
    assert "is 3.8.18" in result.stderr


def test_the_version_check_is_written_for_old_pythons() -> None:
    source = (TOOLS / "install.py").read_text()
    tree = ast.parse(source, feature_version=(3, 4))
    assert not [node for node in ast.walk(tree) if isinstance(node, (ast.JoinedStr, ast.AnnAssign))]
    assert "from __future__ import annotations" not in source


def test_clean_refuses_while_curtail_runs(tmp_path: Path) -> None:
    root = make_checkout(tmp_path)
    (root / ".curtail").mkdir()
    with (root / ".curtail" / "owner.lock").open("w+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4711\n")
        lock.flush()
        assert_one_line(install(root, "--clean"), "Curtail runs from here (pid 4711)")
    assert (root / ".curtail").exists()


def test_clean_removes_what_make_created(tmp_path: Path) -> None:
    root = make_checkout(tmp_path)
    for name in (".curtail", ".venv", ".pytest_cache"):
        (root / name).mkdir()
    assert install(root, "--clean").returncode == 0
    assert sorted(entry.name for entry in root.iterdir() if entry.name.startswith(".")) == []


def test_make_without_a_python_is_one_line(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    make, shell = shutil.which("make"), shutil.which("sh")
    assert make is not None
    assert shell is not None
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sh").symlink_to(shell)
    result = subprocess.run(
        [make, "-s", "install"],
        cwd=tmp_path,
        env={"PATH": str(tmp_path / "bin")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert "Python 3.11 or newer is needed and none was found" in result.stderr
