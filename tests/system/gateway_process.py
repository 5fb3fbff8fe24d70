"""A gateway in a process of its own, as in production; the test plays the engine host by hand."""

from __future__ import annotations

import json
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from curtail.processes import Child, Supervisor, http_ready
from demo.scenario import MODEL
from experiments import wire
from experiments.models import UseCase
from experiments.services.registry import issue_api_key
from tests.system.conftest import wait_for

ROOT = Path(__file__).resolve().parents[2]
ANSWER = {"prompt_tokens": 4, "thinking_tokens": 5, "answer_tokens": 2, "overrun_tokens": 1, "probe_tokens": 3}


@dataclass
class GatewayProcess:
    """A running gateway.

    Attributes:
        token: an API key that may serve.
    """

    child: Child
    port: int
    token: str
    checkpoint_id: int
    redis: redis.Redis

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        """What a client sends."""
        return {"authorization": f"Bearer {self.token}"}

    def body(self, *, stream: bool = False, prompt: str = "1+1") -> dict[str, Any]:
        """A request's body."""
        return {"model": MODEL, "messages": [{"role": "user", "content": prompt}], "stream": stream}

    def ask(self, **options: Any) -> httpx.Response:
        """A request that is expected to be answered at once."""
        return httpx.post(f"{self.url}/v1/chat/completions", json=self.body(**options), headers=self.headers)

    def host_is_up(self) -> None:
        """Say that an engine host serves the checkpoint; return when the gateway knows."""
        self.redis.set(wire.host_key(self.checkpoint_id), "test", ex=60)
        wait_for(lambda: httpx.get(f"{self.url}/readyz").status_code == 200)

    def taken(self, count: int = 1) -> list[wire.ServeRequest]:
        """The requests that wait, once there are so many."""
        stream = wire.request_stream(self.checkpoint_id)
        wait_for(lambda: self.redis.xlen(stream) >= count)
        return [wire.ServeRequest.decode(fields[wire.PAYLOAD]) for _, fields in self.redis.xrange(stream)]

    def reply(self, request: wire.ServeRequest, kind: str, body: Any) -> None:
        """One event of a request's answer."""
        event = wire.ReplyEvent(request.id, kind, body)
        self.redis.xadd(request.reply_to, {wire.PAYLOAD: wire.pack_replies([event])})

    def finish(self, request: wire.ServeRequest) -> None:
        """The end of a request's answer, and of its entry in the stream."""
        texts = {"finish_reason": "stop", "exit_reason": "end_of_thinking", "text": "2", "thinking": "hm"}
        record = wire.CompletionRecord(request.id, "answered", 0.0, **texts, **ANSWER, queue_seconds=0.25)
        body = {name: getattr(record, name) for name in record.__dataclass_fields__ if name != "messages"}
        self.reply(request, "finished", body)
        self.redis.delete(wire.request_stream(self.checkpoint_id))

    def terminate(self) -> None:
        """Ask it to stop, as an init system does."""
        self.child.process.send_signal(signal.SIGTERM)

    def log_lines(self) -> list[dict[str, Any]]:
        """What it has logged as JSON."""
        return [json.loads(line) for line in self.child.log.read_text().splitlines() if line.startswith("{")]


Start = Callable[..., GatewayProcess]


@pytest.fixture
def start_gateway(
    registered: UseCase, redis_client: redis.Redis, child_environment: dict[str, str], tmp_path: Path
) -> Iterator[Start]:
    """Starts a gateway with these environment variables."""
    issued = issue_api_key("test", "test", registered, ["serve"])
    with Supervisor(tmp_path / "logs") as supervisor:

        def start(**environment: str) -> GatewayProcess:
            port = _free_port()
            argv = [sys.executable, "-m", "curtail.web_server", "--port", str(port)]
            env = {**child_environment, "CURTAIL_LOG_FORMAT": "json", **environment}
            ready = http_ready(f"http://127.0.0.1:{port}/healthz")
            child = supervisor.start(f"gateway-{port}", argv, ready=ready, env=env, cwd=ROOT)
            assert registered.checkpoint_id is not None
            return GatewayProcess(child, port, issued.token, registered.checkpoint_id, redis_client)

        yield start


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
