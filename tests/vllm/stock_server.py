"""A stock vLLM server with the plugin's wheel, in processes that know nothing of this repository."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from workers.engines.vllm_engine.engine import _CPU_ENVIRONMENT

START_SECONDS = 480.0
STOP_SECONDS = 60.0
REQUEST_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of the server: its status and the JSON body."""

    status: int
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class StockServer:
    """A running server."""

    url: str
    process: subprocess.Popen[bytes]

    def post(self, path: str, body: dict[str, Any]) -> Reply:
        """Send a JSON request."""
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=REQUEST_SECONDS) as response:
                return Reply(response.status, json.load(response))
        except urllib.error.HTTPError as error:
            with error:
                return Reply(error.code, json.load(error))

    def family(self) -> list[psutil.Process]:
        """The server's process and all of its children."""
        process = psutil.Process(self.process.pid)
        return [process, *process.children(recursive=True)]


@contextlib.contextmanager
def serving(model: str, plugin: Path, folder: Path, *arguments: str) -> Iterator[StockServer]:
    """Start a server, end it by its pid, and fail if one of its processes is left.

    Args:
        model: folder of the checkpoint.
        plugin: folder that holds the installed wheel.
        folder: working directory; the server's log is written there.
        arguments: for the server besides.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--served-model-name", "m"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--enforce-eager", "--block-size", "32"]
    command += ["--dtype", "float32", "--max-model-len", "1024", *arguments]
    environment = {
        **os.environ,
        **_CPU_ENVIRONMENT,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join((str(plugin), str(_blocked(folder)))),
    }
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
    server = StockServer(f"http://127.0.0.1:{port}", process)
    try:
        _await_health(server, log)
        yield server
    finally:
        _stop(server, log)


def _blocked(folder: Path) -> Path:
    """A folder for the import path in which this repository's packages cannot be imported, wherever else they lie."""
    blocked = folder / "blocked"
    blocked.mkdir()
    for package in ("experiments", "workers", "curtail"):
        (blocked / f"{package}.py").write_text(f"raise ImportError('{package} is not in a stock server')\n")
    return blocked


def _await_health(server: StockServer, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert server.process.poll() is None, log.read_text()[-5000:]
        with contextlib.suppress(OSError), urllib.request.urlopen(server.url + "/health", timeout=5) as response:
            if response.status == 200:
                return
        time.sleep(0.2)
    raise AssertionError(f"no health after {START_SECONDS:g} s: {log.read_text()[-5000:]}")


def _stop(server: StockServer, log: Path) -> None:
    family = server.family() if server.process.poll() is None else []
    server.process.send_signal(signal.SIGTERM)
    try:
        server.process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.process.kill()
        server.process.wait()
    _, left = psutil.wait_procs(family[1:], timeout=STOP_SECONDS)
    for process in left:
        process.kill()
    assert not left, f"processes outlived the server: {left}; {log.read_text()[-2000:]}"
