"""The way back: one Redis stream per gateway process, spread to the requests that wait."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from experiments import wire
from experiments.services.sealing import unseal

logger = logging.getLogger(__name__)
_BLOCK_MILLISECONDS = 1000
_BATCH = 500


class Replies:
    """Reads this gateway's reply stream and hands each event to its request's queue.

    Args:
        redis: asynchronous client.
        gateway_id: unique among the running gateways.

    Attributes:
        read_at: when the stream was last read, by ``time.monotonic``.
    """

    def __init__(self, redis: Any, gateway_id: str) -> None:
        self._redis = redis
        self.stream = wire.reply_stream(gateway_id)
        self._waiting: dict[str, asyncio.Queue[wire.ReplyEvent]] = {}
        self.read_at = 0.0

    @property
    def waiting(self) -> int:
        """Requests in flight."""
        return len(self._waiting)

    @contextmanager
    def expect(self, request_id: str) -> Iterator[asyncio.Queue[wire.ReplyEvent]]:
        """The queue of one request's events while the block lasts."""
        queue = self._waiting[request_id] = asyncio.Queue()
        try:
            yield queue
        finally:
            del self._waiting[request_id]

    async def read_forever(self) -> None:
        """Read until cancelled. What was read is deleted, so the stream stays as short as the backlog."""
        last = b"0"
        while True:
            try:
                answer = await self._redis.xread({self.stream: last}, count=_BATCH, block=_BLOCK_MILLISECONDS)
                self.read_at = time.monotonic()
                for _, entries in answer:
                    for _, fields in entries:
                        self._dispatch(fields[wire.PAYLOAD])
                    last = entries[-1][0]
                    await self._redis.xdel(self.stream, *[entry_id for entry_id, _ in entries])
            except asyncio.CancelledError:
                raise
            except Exception:
                logger.exception("reading %s failed; trying again", self.stream)
                await asyncio.sleep(0.5)

    def _dispatch(self, payload: bytes) -> None:
        for event in wire.unpack_replies(unseal(payload)):
            queue = self._waiting.get(event.request_id)
            if queue is not None:
                queue.put_nowait(event)

    def end_all(self, body: dict[str, Any]) -> None:
        """End every request in flight with an error event of this body."""
        for request_id, queue in self._waiting.items():
            queue.put_nowait(wire.ReplyEvent(request_id, "error", body))

    async def close(self) -> None:
        """Remove the stream."""
        await self._redis.delete(self.stream)
