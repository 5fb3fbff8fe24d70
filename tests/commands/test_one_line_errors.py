"""What ends `make demo` and `manage.py serve` early is one clear line, not a traceback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def run(command: str, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
    environment["CURTAIL_HOME"] = str(home)
    argv = [sys.executable, "manage.py", command, *arguments]
    return subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("command", ["demo", "serve"])
def test_a_port_in_use_is_named(command: str, busy_port: int, tmp_path: Path) -> None:
    ended = run(command, tmp_path, "--port", str(busy_port))
    assert ended.returncode == 1
    (line,) = ended.stderr.strip().splitlines()
    assert f"port {busy_port} on 127.0.0.1 is in use" in line
    assert not (tmp_path / "postgres").exists()


def test_a_home_that_is_a_file_is_named(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.write_text("in the way")
    ended = run("serve", home)
    assert ended.returncode == 2  # the settings could not be read
    (line,) = ended.stderr.strip().splitlines()
    assert str(home) in line
