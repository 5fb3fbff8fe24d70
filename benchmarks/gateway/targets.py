"""The gateways under load: ours, and others where a Python with them is named; each in front of the same upstream."""

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
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
UPSTREAM_MODEL = "m"
_START_SECONDS = 120.0
_KEY = "sk-benchmark-0123456789abcdef0123456789abcdef"
# Started on a free port, it prints its address. A gateway inside a process is how TensorZero's wheel can be served.
_TENSORZERO = """
import asyncio, sys, tensorzero
from openai import AsyncOpenAI
async def main():
    client = AsyncOpenAI(api_key="x", base_url="http://127.0.0.1:1")
    patched = await tensorzero.patch_openai_client(client, config_file=sys.argv[1], async_setup=True)
    print(patched.base_url, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


@dataclass(frozen=True)
class Target:
    """Where a load goes.

    Attributes:
        name: of the gateway, or "direct".
        port: on 127.0.0.1.
        path: of chat completions.
        headers: lines of HTTP headers.
        model: its name in requests.
    """

    name: str
    port: int
    path: str = "/v1/chat/completions"
    headers: str = ""
    model: str = UPSTREAM_MODEL


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def compile_programs(folder: Path) -> None:
    """Compile the upstream and the load generator."""
    for name in ("upstream", "load"):
        source = Path(__file__).parent / f"{name}.c"
        subprocess.run(["cc", "-O2", "-pthread", "-o", folder / name, source], check=True)


@contextlib.contextmanager
def _process(argv: list[str], log: Path, **options: object) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        process = subprocess.Popen(argv, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, **options)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def upstream(folder: Path, chunks: int, interval_us: int) -> Iterator[Target]:
    """The model server, to be asked directly."""
    port = free_port()
    argv = [str(folder / "upstream"), str(port), str(chunks), str(interval_us)]
    with _process(argv, folder / "upstream.log"):
        _wait_until_answers(Target("direct", port))
        yield Target("direct", port)


@contextlib.contextmanager
def curtail(folder: Path, direct: Target) -> Iterator[Target]:
    """Curtail as `manage.py serve` starts it: records in Redis with its append-only file, and on to PostgreSQL."""
    home, model, port = folder / "curtail", folder / "model", free_port()
    model.mkdir(exist_ok=True)
    server = {"base_url": f"http://127.0.0.1:{direct.port}/v1", "model": UPSTREAM_MODEL}
    described = {"continues": "chat", "reasoning_fields": True, "reasoning_usage": True}
    (model / "server.json").write_text(json.dumps(server | described))
    environment = {**os.environ, "CURTAIL_HOME": str(home), "CURTAIL_ACCESS_LOG": "0"}
    manage = [sys.executable, str(ROOT / "manage.py")]
    with _process([*manage, "serve", "--port", str(port)], folder / "curtail.log", env=environment, cwd=ROOT):
        _wait_until_listens(port)
        register = [*manage, "register", UPSTREAM_MODEL, str(model), "--engine", "openai", "--context", "4096"]
        said = subprocess.run(register, env=environment, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        key = next(word for word in said.split() if word.startswith("ck_"))
        target = Target("curtail", port, headers=f"authorization: Bearer {key}\r\n")
        _wait_until_answers(target)
        yield target


@contextlib.contextmanager
def litellm(folder: Path, python: str, direct: Target) -> Iterator[Target]:
    """LiteLLM's proxy with one worker: two deployments of the same upstream, weighted alike."""
    port = free_port()
    parameters = {"model": f"openai/{UPSTREAM_MODEL}", "api_base": f"http://127.0.0.1:{direct.port}/v1", "api_key": "x"}
    deployment = {"model_name": UPSTREAM_MODEL, "litellm_params": parameters | {"weight": 1}}
    (folder / "litellm.json").write_text(json.dumps({"model_list": [deployment, deployment]}))
    argv = [str(Path(python).parent / "litellm"), "--config", str(folder / "litellm.json"), "--port", str(port)]
    environment = {
        **os.environ,
        "LITELLM_LOG": "ERROR",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MASTER_KEY": _KEY,
    }
    with _process([*argv, "--host", "127.0.0.1"], folder / "litellm.log", env=environment):
        target = Target("litellm", port, headers=f"authorization: Bearer {_KEY}\r\n")
        _wait_until_answers(target)
        yield target


@contextlib.contextmanager
def tensorzero(folder: Path, python: str, direct: Target) -> Iterator[Target]:
    """TensorZero's gateway: two variants of one function, weighted alike; without observability."""
    provider = f'type = "openai"\nmodel_name = "m"\napi_base = "http://127.0.0.1:{direct.port}/v1"\n'
    variants = "".join(
        f'[functions.f.variants.{name}]\ntype = "chat_completion"\nmodel = "m"\nweight = 1\n' for name in ("a", "b")
    )
    config = (
        "[gateway]\nobservability.enabled = false\n[models.m]\nrouting = ['up']\n"
        f"[models.m.providers.up]\n{provider}api_key_location = 'none'\n[functions.f]\ntype = 'chat'\n{variants}"
    )
    (folder / "tensorzero.toml").write_text(config)
    log = folder / "tensorzero.log"
    argv = [python, "-W", "ignore", "-c", _TENSORZERO, str(folder / "tensorzero.toml")]
    with _process(argv, log):
        deadline = time.monotonic() + _START_SECONDS
        while not (lines := [line for line in log.read_text().splitlines() if line.startswith("http://")]):
            if time.monotonic() > deadline:
                raise RuntimeError(f"TensorZero did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.1)
        address = urllib.parse.urlsplit(lines[0])
        path = address.path.rstrip("/") + "/chat/completions"
        target = Target("tensorzero", address.port or 80, path, model="tensorzero::function_name::f")
        _wait_until_answers(target)
        yield target


def body(target: Target, *, stream: bool) -> str:
    """The request."""
    asked = {"model": target.model, "messages": [{"role": "user", "content": "What is 3+4?"}], "temperature": 0.5}
    return json.dumps(asked | ({"stream": True} if stream else {}))


def _wait_until_listens(port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"nothing listens on port {port}")
        time.sleep(0.2)


def _wait_until_answers(target: Target) -> None:
    """Returns when the target answers a request."""
    headers = dict(line.split(": ", 1) for line in target.headers.splitlines()) | {"content-type": "application/json"}
    url = f"http://127.0.0.1:{target.port}{target.path}"
    asked = urllib.request.Request(url, body(target, stream=False).encode(), headers)
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(asked, timeout=10):
                return
        except (OSError, urllib.error.URLError) as error:
            if time.monotonic() > deadline:
                detail = error.read()[:500] if isinstance(error, urllib.error.HTTPError) else b""
                raise RuntimeError(f"{target.name} does not answer: {error} {detail!r}") from error
        time.sleep(0.3)
