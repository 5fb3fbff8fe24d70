"""Answering a client from the events of its request: whole, or as a stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from experiments import wire
from experiments.gateway.admission import Admitted
from experiments.gateway.errors import ApiError
from experiments.gateway.http import ClientLeft, EventStream, Receive, Send, send_json, wait_for_disconnect
from experiments.gateway.observing import note_event
from experiments.gateway.responses import Shape

Events = asyncio.Queue[wire.ReplyEvent]
# Whoever decodes ends a request at its deadline; the gateway waits a little longer for its word.
DEADLINE_GRACE_SECONDS = 2.0
_LEFT, _LATE = "left", "late"


async def send_whole(admitted: Admitted, shape: Shape, events: Events, send: Send) -> None:
    """Wait for the whole answer and send it as one JSON body."""
    event = await _next(admitted, events)
    while event.kind not in ("finished", "error"):
        event = await _next(admitted, events)
    if event.kind == "error":
        error = _error(event)
        await send_json(send, error.status, error.body(), admitted.headers)
        return
    await send_json(send, 200, shape.whole(event.body), admitted.headers)


async def send_stream(
    admitted: Admitted, shape: Shape, events: Events, send: Send, *, include_usage: bool = False
) -> None:
    """Send the answer as server-sent events while it is decoded."""
    stream = EventStream(send, admitted.headers)
    opening = shape.opening()
    held: dict[str, Any] | None = None  # a server's last choices: what Curtail did goes with them
    while True:
        event = await _next(admitted, events)
        if event.kind == "error":
            error = _error(event)
            if not stream.started:
                await send_json(send, error.status, error.body(), admitted.headers)
                return
            await stream.event(error.body())
            break
        if opening is not None:
            await stream.event(opening)
            opening = None
        if event.kind == "finished":
            await stream.event(shape.ending(event.body, held))
            if include_usage:
                await stream.event(shape.usage(event.body))
            break
        if held is not None:
            await stream.event(held)
            held = None
        if event.kind == "choices":
            chunk: dict[str, Any] | None = shape.passed(event.body)
            if any(choice.get("finish_reason") for choice in event.body):
                held, chunk = chunk, None
        else:
            chunk = shape.text(event.kind, event.body)
        if chunk is not None:
            await stream.event(chunk)
    await stream.close()


def _error(event: wire.ReplyEvent) -> ApiError:
    return ApiError(event.body["status"], event.body["message"], event.body["code"])


@contextmanager
def watched(admitted: Admitted, receive: Receive, events: Events) -> Iterator[None]:
    """While the block lasts, that the client leaves and that no answer comes in time are events too."""
    remaining = admitted.deadline_at + DEADLINE_GRACE_SECONDS - time.time()
    late = wire.ReplyEvent(admitted.id, _LATE, None)
    timer = asyncio.get_running_loop().call_later(max(remaining, 0.001), events.put_nowait, late)
    leaving = asyncio.create_task(wait_for_disconnect(receive))

    def left(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is None:
            events.put_nowait(wire.ReplyEvent(admitted.id, _LEFT, None))

    leaving.add_done_callback(left)
    try:
        yield
    finally:
        timer.cancel()
        leaving.cancel()


async def _next(admitted: Admitted, events: Events) -> wire.ReplyEvent:
    """The next event; an error event when none came before the deadline. Raises ClientLeft."""
    event = await events.get()
    if event.kind == _LEFT:
        raise ClientLeft
    late = event.kind == _LATE
    if late:
        body = {
            "status": 504,
            "code": "timeout",
            "message": f"no answer within {admitted.route.deadline_seconds:g} seconds",
        }
        event = wire.ReplyEvent(admitted.id, "error", body)
    note_event(event, ended_here=late)
    return event
