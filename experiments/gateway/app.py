"""The OpenAI-compatible endpoint as an ASGI callable."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import redis.exceptions

from experiments.asyncio_tasks import end_tasks
from experiments.gateway.admission import Admitted, authorise, decide
from experiments.gateway.answering import send_stream, send_whole
from experiments.gateway.chat_request import parse_chat_request
from experiments.gateway.errors import ApiError
from experiments.gateway.hosted import HostedServing
from experiments.gateway.http import (
    ClientLeft,
    Receive,
    Scope,
    Send,
    header,
    read_body,
    send_json,
    wait_for_disconnect,
)
from experiments.gateway.remote import RemoteServing
from experiments.gateway.replies import Replies
from experiments.gateway.routing_cache import RoutingCache
from experiments.gateway.stream_writer import StreamWriter
from experiments.routing import Routing
from workers.engines.base import Engine
from workers.served import ServedCheckpoint

logger = logging.getLogger(__name__)


class Gateway:
    """Serves /v1.

    Args:
        connect: makes an asynchronous Redis client in the running event loop.
        load_routing: reads the routing of a configuration version (blocking).
        list_remote: reads the checkpoints behind remote servers (blocking).
        make_engine: builds the engine of one (not started).
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        load_routing: Callable[[int], Routing],
        list_remote: Callable[[], Sequence[ServedCheckpoint]],
        make_engine: Callable[[ServedCheckpoint], Engine],
    ) -> None:
        self._connect = connect
        self._load_routing = load_routing
        self._list_remote = list_remote
        self._make_engine = make_engine
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Connect, load the routing, start reading replies. Call it in the serving event loop."""
        self._redis = self._connect()
        self._writer = StreamWriter(self._redis)
        self._replies = Replies(self._redis, uuid.uuid4().hex[:12])
        self._hosted = HostedServing(self._redis, self._writer, self._replies)
        self._remote = RemoteServing(self._writer, self._list_remote, self._make_engine)
        self._routing = RoutingCache(self._redis, self._load_routing, self._remote.refresh)
        await self._routing.refresh()
        self._spawn(self._writer.write_forever())
        self._spawn(self._routing.keep_fresh())
        self._spawn(self._replies.read_forever())

    async def stop(self) -> None:
        """End the background tasks and disconnect."""
        await self._remote.close()
        await end_tasks(self._tasks)
        await self._replies.close()
        await self._redis.aclose()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            handler = self._handler(scope)
            await handler(scope, receive, send)
        except ApiError as error:
            await send_json(send, error.status, error.body())
        except ClientLeft:
            return
        except redis.exceptions.RedisError:
            logger.exception("Redis failed while a request was admitted")
            unavailable = ApiError(503, "the request could not be admitted; try again", "unavailable")
            await send_json(send, unavailable.status, unavailable.body(), {"retry-after": "1"})

    def _handler(self, scope: Scope) -> Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]:
        routes = {
            "/v1/chat/completions": ("POST", self._chat_completions),
            "/v1/models": ("GET", self._models),
        }
        method, handler = routes.get(scope["path"].rstrip("/"), ("", None))
        if handler is None:
            raise ApiError(404, f"no such path: {scope['path']}", "not_found")
        if scope["method"] != method:
            raise ApiError(405, f"{scope['path']} takes {method}, got {scope['method']}", "method_not_allowed")
        return handler

    async def _models(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = authorise(self._routing.current, header(scope, b"authorization"))
        model = {"id": route.model, "object": "model", "created": 0, "owned_by": "curtail"}
        await send_json(send, 200, {"object": "list", "data": [model]})

    async def _chat_completions(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = authorise(self._routing.current, header(scope, b"authorization"))
        request = parse_chat_request(await read_body(receive))
        admitted = decide(route, request, self._routing.unwatched())
        serving = self._serving(admitted)
        async with serving.serve(admitted, request) as events:
            answer = send_stream if request.stream else send_whole
            answering = asyncio.create_task(answer(admitted, request, events, send))
            leaving = asyncio.create_task(wait_for_disconnect(receive))
            try:
                await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
                if not answering.done():
                    await serving.cancel(admitted.id)
                    raise ClientLeft
                await answering
            finally:
                for task in (answering, leaving):
                    task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await leaving

    def _serving(self, admitted: Admitted) -> HostedServing | RemoteServing:
        return self._remote if self._remote.serves(admitted.assignment.arm.checkpoint_id) else self._hosted
