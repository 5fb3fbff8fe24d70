"""The way back: one Redis stream per gateway process, spread to the requests that wait."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from experiments import wire
from experiments.services.sealing import unseal

logger = logging.getLogger(__name__)
_BLOCK_MILLISECONDS = 1000
_BATCH = 500
RESTARTED = "the server that was answering has failed in mid-answer"


@dataclass(slots=True)
class _Expected:
    """What has come of one request.

    Attributes:
        delivery: whose text it follows.
        number: of the last event of that delivery.
    """

    events: asyncio.Queue[wire.ReplyEvent] = field(default_factory=asyncio.Queue)
    delivery: int = 0
    number: int = 0

    def take(self, event: wire.ReplyEvent) -> None:
        """Hand an event on, once: after an ambiguous failure of Redis a host sends what it had in hand again.

        Text of one delivery is never followed by that of another: a host that lost a request to a second one may
        still be decoding it.
        """
        if event.number:
            if (event.delivery, event.number) <= (self.delivery, self.number):
                return
            if 0 < self.delivery < event.delivery and event.kind != "error":
                body = {"status": 502, "code": "engine_error", "message": RESTARTED}
                event = wire.ReplyEvent(event.request_id, "error", body, event.number, event.delivery)
            self.delivery, self.number = event.delivery, event.number
        self.events.put_nowait(event)


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
        self._waiting: dict[str, _Expected] = {}
        self.read_at = 0.0

    @property
    def waiting(self) -> int:
        """Requests in flight."""
        return len(self._waiting)

    @contextmanager
    def expect(self, request_id: str) -> Iterator[asyncio.Queue[wire.ReplyEvent]]:
        """The queue of one request's events while the block lasts."""
        expected = self._waiting[request_id] = _Expected()
        try:
            yield expected.events
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
                    last = entries[-1][0]
                    for _, fields in entries:
                        self._dispatch(fields[wire.PAYLOAD])
                    # Not one by one: what an earlier failure left behind goes with it.
                    await self._redis.xtrim(self.stream, minid=_next_id(last), approximate=False)
            except asyncio.CancelledError:
                raise
            except Exception:
                logger.exception("reading %s failed; trying again", self.stream)
                await asyncio.sleep(0.5)

    def _dispatch(self, payload: bytes) -> None:
        try:
            events = wire.unpack_replies(unseal(payload))
        except (ValueError, TypeError):
            # Its requests end at their deadline; the entries behind it are none the worse.
            logger.exception("an entry of %s can't be read; it is dropped", self.stream)
            return
        for event in events:
            expected = self._waiting.get(event.request_id)
            if expected is not None:
                expected.take(event)

    def end_all(self, body: dict[str, Any]) -> None:
        """End every request in flight with an error event of this body."""
        for request_id, expected in self._waiting.items():
            expected.events.put_nowait(wire.ReplyEvent(request_id, "error", body))

    async def close(self) -> None:
        """Remove the stream."""
        await self._redis.delete(self.stream)


def _next_id(entry_id: bytes) -> bytes:
    """The id right after one of a stream's entry."""
    milliseconds, _, number = entry_id.partition(b"-")
    return b"%s-%d" % (milliseconds, int(number) + 1)
