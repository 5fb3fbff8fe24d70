"""The OpenAI-compatible endpoint as an ASGI callable."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

import redis.exceptions

from experiments import wire
from experiments.asyncio_tasks import end_tasks
from experiments.gateway import responses
from experiments.gateway.admission import Admitted, authorise, decide, record
from experiments.gateway.chat_request import ChatRequest, parse_chat_request
from experiments.gateway.errors import ApiError
from experiments.gateway.http import (
    ClientLeft,
    EventStream,
    Receive,
    Scope,
    Send,
    header,
    read_body,
    send_json,
    wait_for_disconnect,
)
from experiments.gateway.replies import Replies
from experiments.gateway.routing_cache import RoutingCache
from experiments.routing import Routing

logger = logging.getLogger(__name__)
# The engine host ends a request at its deadline; the gateway waits a little longer for its word.
DEADLINE_GRACE_SECONDS = 2.0


class Gateway:
    """Serves /v1.

    Args:
        connect: makes an asynchronous Redis client in the running event loop.
        load_routing: reads the routing of a configuration version (blocking).
    """

    def __init__(self, connect: Callable[[], Any], load_routing: Callable[[int], Routing]) -> None:
        self._connect = connect
        self._load_routing = load_routing
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Connect, load the routing, start reading replies. Call it in the serving event loop."""
        self._redis = self._connect()
        self._routing = RoutingCache(self._redis, self._load_routing)
        self._replies = Replies(self._redis, uuid.uuid4().hex[:12])
        await self._routing.refresh()
        self._spawn(self._routing.keep_fresh())
        self._spawn(self._replies.read_forever())

    async def stop(self) -> None:
        """End the background tasks and disconnect."""
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
        with self._replies.expect(admitted.id) as events:
            await record(self._redis, admitted, request, self._replies.stream)
            answer = self._stream if request.stream else self._whole
            answering = asyncio.create_task(answer(admitted, request, events, send))
            leaving = asyncio.create_task(wait_for_disconnect(receive))
            try:
                await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
                if not answering.done():
                    await self._redis.publish(wire.CANCEL_CHANNEL, admitted.id)
                    raise ClientLeft
                await answering
            finally:
                for task in (answering, leaving):
                    task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await leaving

    async def _whole(
        self, admitted: Admitted, request: ChatRequest, events: asyncio.Queue[wire.ReplyEvent], send: Send
    ) -> None:
        event = await self._next(admitted, events)
        while event.kind not in ("finished", "error"):
            event = await self._next(admitted, events)
        if event.kind == "error":
            error = ApiError(event.body["status"], event.body["message"], event.body["code"])
            await send_json(send, error.status, error.body(), admitted.headers)
            return
        created = int(admitted.admitted_at)
        body = responses.completion_body(admitted.id, created, request.model, event.body, admitted.assignment)
        await send_json(send, 200, body, admitted.headers)

    async def _stream(
        self, admitted: Admitted, request: ChatRequest, events: asyncio.Queue[wire.ReplyEvent], send: Send
    ) -> None:
        created, model = int(admitted.admitted_at), request.model
        stream = EventStream(send, admitted.headers)
        while True:
            event = await self._next(admitted, events)
            if event.kind == "error":
                error = ApiError(event.body["status"], event.body["message"], event.body["code"])
                if not stream.started:
                    await send_json(send, error.status, error.body(), admitted.headers)
                    return
                await stream.event(error.body())
                break
            if not stream.started:
                first = {"role": "assistant", "content": ""}
                await stream.event(responses.chunk_body(admitted.id, created, model, first))
            if event.kind == "finished":
                last = responses.chunk_body(admitted.id, created, model, {}, event.body["finish_reason"])
                last["curtail"] = responses.curtail_extension(event.body, admitted.assignment)
                await stream.event(last)
                if request.include_usage:
                    await stream.event(responses.usage_chunk(admitted.id, created, model, event.body))
                break
            name = "reasoning" if event.kind == "thinking" else "content"
            await stream.event(responses.chunk_body(admitted.id, created, model, {name: event.body}))
        await stream.close()

    async def _next(self, admitted: Admitted, events: asyncio.Queue[wire.ReplyEvent]) -> wire.ReplyEvent:
        """The next event; an error event when none comes before the deadline."""
        remaining = admitted.deadline_at + DEADLINE_GRACE_SECONDS - time.time()
        try:
            return await asyncio.wait_for(events.get(), max(remaining, 0.001))
        except TimeoutError:
            seconds = admitted.route.deadline_seconds
            body = {"status": 504, "code": "timeout", "message": f"no answer within {seconds:g} seconds"}
            return wire.ReplyEvent(admitted.id, "error", body)
