"""The official JavaScript client: installed once, in the versions of its lock file, and run by node."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).parent / "javascript"
CACHE = Path(__file__).resolve().parents[2] / ".curtail" / "clients"
# How npm names a registry that is not there.
_NO_REGISTRY = (
    "ENOTFOUND",
    "EAI_AGAIN",
    "ECONNREFUSED",
    "ECONNRESET",
    "ETIMEDOUT",
    "ENETUNREACH",
    "SOCKET_TIMEOUT",
)
_LEAST_NODE = 18


@dataclass(frozen=True)
class JavaScriptClient:
    """A client of one gateway.

    Attributes:
        folder: where it is installed.
        url: base URL of the API.
        key: API key.
    """

    folder: Path
    url: str
    key: str

    def ask(self, method: str, **parameters: Any) -> Any:
        """What a method of ``ask.mjs`` gives."""
        said = self._run(method, parameters)
        assert "result" in said, said
        return said["result"]

    def refused(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The error that the client throws."""
        said = self._run(method, parameters)
        assert "error" in said, said
        return dict(said["error"])

    def _run(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        env = {**os.environ, "CURTAIL_URL": self.url, "CURTAIL_KEY": self.key}
        argv = ["node", "ask.mjs", method, json.dumps(parameters)]
        done = subprocess.run(argv, cwd=self.folder, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))


def installed() -> Path:
    """The folder in which the client is installed; skips the test without node or npm's registry."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node and npm are needed for the JavaScript client")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.removeprefix("v").partition(".")[0]) < _LEAST_NODE:
        pytest.skip(f"the JavaScript client needs node {_LEAST_NODE}, this is {version}")
    content = b"".join(path.read_bytes() for path in sorted(SOURCE.iterdir()) if path.is_file())
    folder = CACHE / f"javascript-{hashlib.sha256(content).hexdigest()[:12]}"
    if not folder.exists():
        _install(npm, folder)
    return folder


def _install(npm: str, folder: Path) -> None:
    """Install beside the folder and move it there, so that nobody sees half of it."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as work:
        made = Path(work) / "made"
        shutil.copytree(SOURCE, made, ignore=shutil.ignore_patterns("node_modules"))
        argv = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(argv, cwd=made, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode and any(word in done.stderr for word in _NO_REGISTRY):
            pytest.skip("npm's registry cannot be reached")
        assert done.returncode == 0, done.stderr
        try:
            made.rename(folder)
        except OSError:
            assert folder.exists()  # another process was faster
