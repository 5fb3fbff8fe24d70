"""The whole path in one process: gateway over HTTP, engine host, ledger writer, PostgreSQL and Redis."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import redis
import uvicorn
from django.contrib.auth import get_user_model

from demo.scenario import FULL, MODEL_PROFILE
from demo.tiny_reasoner.checkpoints import read_index
from experiments.gateway.app import Gateway
from experiments.models import Checkpoint, Experiment, UseCase
from experiments.services.experiments import VariantSpec, create_experiment, start
from experiments.services.off_thread import off_thread
from experiments.services.redis_clients import async_redis, sync_redis_client
from experiments.services.registry import (
    issue_api_key,
    register_checkpoint,
    register_model,
    register_use_case,
)
from experiments.services.routing import load_routing
from workers.checkpoints import hosted_checkpoints, make_engine, remote_checkpoints
from workers.ledger_writer import LedgerWriter
from workers.serving import EngineHost


def wait_for(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Poll until ``condition`` is true; its value. AssertionError after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not true within {seconds:g} s"
        threading.Event().wait(0.02)
    return value


class _GatewayServer:
    """uvicorn in a thread, around the gateway alone."""

    def __init__(self) -> None:
        self.gateway = Gateway(async_redis, off_thread(load_routing), off_thread(remote_checkpoints), make_engine)
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(self._application, interface="asgi3", log_level="warning", access_log=False)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, name="gateway")

    def _serve(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._socket]))

    async def _application(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await self.gateway(scope, receive, send)
            return
        await receive()
        await self.gateway.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.gateway.stop()
        await send({"type": "lifespan.shutdown.complete"})

    def start(self) -> None:
        self._thread.start()
        wait_for(lambda: self._server.started)

    def stop(self) -> None:
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join()
        self._socket.close()


@dataclass
class Installation:
    """A running installation.

    Attributes:
        token: an API key with all scopes whose requests go to ``use_case``.
    """

    url: str
    token: str
    use_case: UseCase
    checkpoint: Checkpoint
    redis: redis.Redis
    gateway: Gateway

    def start_experiment(self, treatment: dict[str, Any], **options: Any) -> Experiment:
        """A running experiment: control ``full`` against one treatment, half and half."""
        arms = [
            VariantSpec("full", FULL, self.checkpoint, 0.5, is_control=True),
            VariantSpec("treatment", treatment, self.checkpoint, 0.5),
        ]
        experiment = start("test", create_experiment("test", self.use_case, "Test", arms, **options))
        version = int(self.redis.get("curtail:config:version") or 0)
        wait_for(lambda: self.gateway._routing.current.version >= version)
        return experiment


@pytest.fixture
def registered(transactional_db: None, redis_client: redis.Redis) -> UseCase:
    """The tiny reasoner and a use case that serves its last checkpoint."""
    model = register_model("test", **MODEL_PROFILE)
    path = f"demo/checkpoints/{read_index()[-1].path.name}"
    checkpoint = register_checkpoint("test", model, "last", path)
    return register_use_case(
        "test",
        "arithmetic",
        name="Arithmetic",
        policy=FULL,
        checkpoint=checkpoint,
        margin=0.05,
        min_saving=0.1,
        deadline_seconds=60.0,
    )


@pytest.fixture
def installation(registered: UseCase, redis_client: redis.Redis) -> Iterator[Installation]:
    """Everything running; stopped in reverse order."""
    host = EngineHost(async_redis, off_thread(hosted_checkpoints), make_engine)
    with running(registered, redis_client, host) as started:
        yield started


@contextmanager
def running(use_case: UseCase, redis_client: redis.Redis, *parts: Any) -> Iterator[Installation]:
    """A ledger writer and a gateway, and other parts with ``start`` and ``stop``."""
    issued = issue_api_key("test", "test", use_case, ["serve", "label", "manage"])
    get_user_model().objects.create_user("test", password="test")
    server = _GatewayServer()
    with ExitStack() as stack:
        for part in (LedgerWriter(sync_redis_client), *parts, server):
            stack.callback(part.stop)
            part.start()
        yield Installation(server.url, issued.token, use_case, use_case.checkpoint, redis_client, server.gateway)
