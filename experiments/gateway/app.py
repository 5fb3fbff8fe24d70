"""The OpenAI-compatible endpoint as an ASGI callable."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import redis.exceptions

from experiments.asyncio_tasks import end_tasks
from experiments.gateway.admission import Admitted, authorise, decide
from experiments.gateway.answering import send_stream, send_whole, watched
from experiments.gateway.chat_request import ChatRequest, parse_chat_request
from experiments.gateway.completion_request import parse_completion_request
from experiments.gateway.directions import Directions, choose_route
from experiments.gateway.errors import ApiError
from experiments.gateway.fields import shown
from experiments.gateway.health import hosted_checkpoints
from experiments.gateway.hosted import HostedServing
from experiments.gateway.http import (
    BoundedReceive,
    ClientLeft,
    Receive,
    Scope,
    Send,
    header,
    read_body,
    send_json,
)
from experiments.gateway.observing import Observation, current
from experiments.gateway.operations import DEFAULTS, PAGES, Operations, Options
from experiments.gateway.remote import RemoteServing
from experiments.gateway.replies import Replies
from experiments.gateway.responses import ChatShape, Shape, TextShape, models
from experiments.gateway.routing_cache import RoutingCache
from experiments.gateway.stream_writer import RedisAppender, StreamWriter
from experiments.routing import KeyGrant, Routing
from workers.engines.base import Engine
from workers.served import ServedCheckpoint

logger = logging.getLogger(__name__)
_ONE_MODEL = "/v1/models/"
# How requests end that a shutdown can't wait for, and how long their clients have to be told.
DRAINED = {"status": 503, "code": "draining", "message": "this gateway shuts down and could not wait for the answer"}
DRAINED_GRACE_SECONDS = 2.0


class Gateway:
    """Serves /v1.

    Args:
        connect: makes an asynchronous Redis client in the running event loop.
        load_routing: reads the routing of a configuration version (blocking).
        list_remote: reads the checkpoints behind remote servers (blocking).
        make_engine: builds the engine of one (not started).
        options: bounds, and what is told of its work.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        load_routing: Callable[[int], Routing],
        list_remote: Callable[[], Sequence[ServedCheckpoint]],
        make_engine: Callable[[ServedCheckpoint], Engine],
        options: Options = DEFAULTS,
    ) -> None:
        self._connect = connect
        self._load_routing = load_routing
        self._list_remote = list_remote
        self._make_engine = make_engine
        self._tasks: list[asyncio.Task[None]] = []
        self.operations = Operations(options)
        self._gate = self.operations.gate
        self._dialect = options.dialect

    async def start(self) -> None:
        """Connect, load the routing, start reading replies. Call it in the serving event loop."""
        self._redis = self._connect()
        self._appender = RedisAppender(self._redis)
        self._writer = StreamWriter(self._appender)
        self._replies = Replies(self._redis, uuid.uuid4().hex[:12])
        self._hosted = HostedServing(self._redis, self._writer, self._replies)
        self._remote = RemoteServing(self._writer, self._list_remote, self._make_engine)
        self._routing = RoutingCache(self._redis, self._load_routing, self._remote.refresh)
        await self._routing.refresh()
        self._spawn(self._writer.write_forever())
        self._spawn(self._routing.keep_fresh())
        self._spawn(self._replies.read_forever())
        self.operations.attach(self._routing, self._replies)
        self._spawn(self._gate.cut_stalled_forever())
        self._spawn(self.operations.pulse.measure_forever(self._redis, self._hosted_checkpoints))

    async def stop(self) -> None:
        """End the background tasks and disconnect."""
        await self._remote.close()
        await end_tasks(self._tasks)
        await self._appender.close()
        await self._replies.close()
        await self._redis.aclose()
        await self.operations.close()

    async def drain(self, seconds: float) -> None:
        """Take no more requests; return when those in flight have ended, after so many seconds by an error."""
        self._gate.draining = True
        if not await self._gate.emptied(seconds):
            self._replies.end_all(DRAINED)
            self._remote.end_all(DRAINED)
            await self._gate.emptied(DRAINED_GRACE_SECONDS)

    def _hosted_checkpoints(self) -> frozenset[int]:
        """Checkpoints that need an engine host."""
        return frozenset(pk for pk in hosted_checkpoints(self._routing.current) if not self._remote.serves(pk))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in PAGES:
            await self.operations.serve_page(scope, send)
            return
        limits = self._gate.limits
        with self.operations.observed(scope) as seen:
            seen.task = asyncio.current_task()
            try:
                with self._gate.open(seen):
                    await self._handler(scope)(scope, BoundedReceive(receive, limits.max_body_bytes), send)
            except ApiError as error:
                await _refuse(send, seen, error)
            except ClientLeft:
                seen.left = True
            except asyncio.CancelledError:
                if not seen.stalled or seen.task is None or seen.task.uncancel():
                    raise
                if (refusal := self._gate.stalled(seen)) is not None:
                    await _refuse(send, seen, refusal)
            except redis.exceptions.RedisError:
                logger.exception("Redis failed while a request was admitted")
                message = "the request could not be admitted; try again"
                await _refuse(send, seen, ApiError(503, message, "unavailable", headers={"retry-after": "1"}))
            except Exception:
                # A stream that has begun is cut, so that nobody takes it for whole.
                seen.code = "internal_error"
                if seen.status:
                    raise
                logger.exception("a request failed")
                await _refuse(send, seen, ApiError(500, "the gateway failed; the log says why", "internal_error"))
            finally:
                if seen.is_orphaned:
                    await self._cancel(seen.id)

    async def _cancel(self, request_id: str) -> None:
        """Tell whoever decodes a request that nobody waits for it any more."""
        if self._remote.cancel(request_id):
            return
        try:
            await self._hosted.cancel(request_id)
        except redis.exceptions.RedisError as error:
            logger.warning("request %s could not be cancelled: %s", request_id, error)

    def _handler(self, scope: Scope) -> Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]:
        routes = {
            "/v1/chat/completions": ("POST", self._chat_completions),
            "/v1/completions": ("POST", self._completions),
            "/v1/models": ("GET", self._models),
        }
        path = scope["path"].rstrip("/")
        method, handler = routes.get(path, ("", None))
        if path.startswith(_ONE_MODEL):
            method, handler = "GET", self._model
        if handler is None:
            raise ApiError(404, f"no such path: {scope['path']}", "not_found")
        if scope["method"] != method:
            raise ApiError(405, f"{scope['path']} takes {method}, got {scope['method']}", "method_not_allowed")
        return handler

    async def _models(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, 200, {"object": "list", "data": list(self._reachable(scope).values())})

    async def _model(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = scope["path"].removeprefix(_ONE_MODEL).rstrip("/")
        found = self._reachable(scope).get(name)
        if found is None:
            raise ApiError(404, f"there is no model {shown(name)} for this API key", "model_not_found", "model")
        await send_json(send, 200, found)

    def _reachable(self, scope: Scope) -> dict[str, dict[str, Any]]:
        """The models that the request's key may name."""
        routing = self._routing.current
        grant = authorise(routing, header(scope, b"authorization"))
        return models(route for slug, route in routing.routes.items() if grant.reaches(slug))

    async def _chat_completions(self, scope: Scope, receive: Receive, send: Send) -> None:
        grant = authorise(self._routing.current, header(scope, b"authorization"))
        request = parse_chat_request(await read_body(receive), self._dialect)
        admitted = self._decide(scope, grant, request)
        shape = ChatShape(admitted, request, self._dialect.reasoning_field)
        await self._answer(admitted, request, shape, receive, send)

    async def _completions(self, scope: Scope, receive: Receive, send: Send) -> None:
        grant = authorise(self._routing.current, header(scope, b"authorization"))
        request = parse_completion_request(await read_body(receive), self._dialect)
        admitted = self._decide(scope, grant, request)
        await self._answer(admitted, request, TextShape(admitted, request), receive, send)

    def _decide(self, scope: Scope, grant: KeyGrant, request: ChatRequest) -> Admitted:
        directions = Directions.of(scope)
        route = choose_route(self._routing.current, grant, request, directions)
        return decide(route, request, self._routing.unwatched(), directions, self._remote.passes)

    async def _answer(
        self, admitted: Admitted, request: ChatRequest, shape: Shape, receive: Receive, send: Send
    ) -> None:
        with self._gate.admit(current(), admitted, request):
            async with self._serving(admitted).serve(admitted, request) as events:
                with watched(admitted, receive, events):
                    if request.stream:
                        await send_stream(admitted, shape, events, send, include_usage=request.include_usage)
                    else:
                        await send_whole(admitted, shape, events, send)

    def _serving(self, admitted: Admitted) -> HostedServing | RemoteServing:
        return self._remote if self._remote.serves(admitted.assignment.arm.checkpoint_id) else self._hosted


async def _refuse(send: Send, seen: Observation, error: ApiError) -> None:
    """Send an error in OpenAI's form, unless a response has begun already."""
    seen.code = error.code
    if not seen.status:
        await send_json(send, error.status, error.body(), {"x-request-id": seen.own_id(), **error.headers})
