"""Serving by an engine host: the request goes out on a Redis stream, its events come back on the gateway's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from experiments import wire
from experiments.gateway.admission import Admitted, admission_record, serve_request
from experiments.gateway.answering import Events
from experiments.gateway.chat_request import ChatRequest
from experiments.gateway.replies import Replies
from experiments.gateway.stream_writer import StreamWriter
from experiments.services.retention import ledger_entry, message_payload


class HostedServing:
    """Requests for checkpoints that engine hosts serve.

    Args:
        redis: asynchronous client.
        writer: of this gateway.
        replies: reader of this gateway's reply stream.
    """

    def __init__(self, redis: Any, writer: StreamWriter, replies: Replies) -> None:
        self._redis = redis
        self._writer = writer
        self._replies = replies

    @asynccontextmanager
    async def serve(self, admitted: Admitted, request: ChatRequest) -> AsyncIterator[Events]:
        """Admit a request, exposure and request both or neither; its events while the block lasts.

        Raises:
            redis.exceptions.RedisError: it could not be admitted.
        """
        with self._replies.expect(admitted.id) as events:
            serve = serve_request(admitted, request, self._replies.stream)
            stream = wire.request_stream(admitted.assignment.arm.checkpoint_id)
            await self._writer.append(
                ledger_entry(admission_record(admitted, request)), (stream, {wire.PAYLOAD: message_payload(serve)})
            )
            yield events

    async def cancel(self, request_id: str) -> None:
        """The client has left."""
        await self._redis.publish(wire.CANCEL_CHANNEL, request_id)
