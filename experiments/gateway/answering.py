"""Answering a client from the events of its request: whole, or as a stream."""

from __future__ import annotations

import asyncio
import time

from experiments import wire
from experiments.gateway import responses
from experiments.gateway.admission import Admitted
from experiments.gateway.chat_request import ChatRequest
from experiments.gateway.errors import ApiError
from experiments.gateway.http import EventStream, Send, send_json

Events = asyncio.Queue[wire.ReplyEvent]
# Whoever decodes ends a request at its deadline; the gateway waits a little longer for its word.
DEADLINE_GRACE_SECONDS = 2.0


async def send_whole(admitted: Admitted, request: ChatRequest, events: Events, send: Send) -> None:
    """Wait for the whole answer and send it as one JSON body."""
    event = await _next(admitted, events)
    while event.kind not in ("finished", "error"):
        event = await _next(admitted, events)
    if event.kind == "error":
        error = ApiError(event.body["status"], event.body["message"], event.body["code"])
        await send_json(send, error.status, error.body(), admitted.headers)
        return
    created = int(admitted.admitted_at)
    body = responses.completion_body(
        admitted.id, created, request.model, event.body, admitted.assignment, request.client_cap
    )
    await send_json(send, 200, body, admitted.headers)


async def send_stream(admitted: Admitted, request: ChatRequest, events: Events, send: Send) -> None:
    """Send the answer as server-sent events while it is decoded."""
    created, model = int(admitted.admitted_at), request.model
    stream = EventStream(send, admitted.headers)
    while True:
        event = await _next(admitted, events)
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
            last["curtail"] = responses.curtail_extension(event.body, admitted.assignment, request.client_cap)
            await stream.event(last)
            if request.include_usage:
                await stream.event(responses.usage_chunk(admitted.id, created, model, event.body))
            break
        name = "reasoning" if event.kind == "thinking" else "content"
        await stream.event(responses.chunk_body(admitted.id, created, model, {name: event.body}))
    await stream.close()


async def _next(admitted: Admitted, events: Events) -> wire.ReplyEvent:
    """The next event; an error event when none comes before the deadline."""
    remaining = admitted.deadline_at + DEADLINE_GRACE_SECONDS - time.time()
    try:
        return await asyncio.wait_for(events.get(), max(remaining, 0.001))
    except TimeoutError:
        seconds = admitted.route.deadline_seconds
        body = {"status": 504, "code": "timeout", "message": f"no answer within {seconds:g} seconds"}
        return wire.ReplyEvent(admitted.id, "error", body)
