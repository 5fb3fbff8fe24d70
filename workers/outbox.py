"""What an engine host sends: packed per event-loop tick, in order, each flush one Redis transaction."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

import redis.exceptions

from experiments import wire
from experiments.services.retention import message_payload
from experiments.services.sealing import seal

logger = logging.getLogger(__name__)
_RETRY_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Ending:
    """What makes an event the last of its request: its record, and the stream entry it settles."""

    record: wire.CompletionRecord
    stream: str
    entry_id: bytes


@dataclass(frozen=True, slots=True)
class _Item:
    reply_to: str
    event: wire.ReplyEvent
    ending: Ending | None
    first_text: bool
    private: bool


class Outbox:
    """Collects events of all requests and writes them together.

    A completion record, the last reply and the acknowledgement of its request go in one transaction:
    whoever sees the answer can rely on its record being in the ledger.

    Args:
        redis: asynchronous client.
    """

    def __init__(self, redis: Any) -> None:
        self._redis = redis
        self._items: list[_Item] = []
        self._in_hand = 0
        self._wake = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def waiting(self) -> int:
        """Events that are not in Redis yet."""
        return len(self._items) + self._in_hand

    def put(
        self,
        reply_to: str,
        event: wire.ReplyEvent,
        ending: Ending | None = None,
        *,
        first_text: bool = False,
        private: bool = False,
    ) -> None:
        """Queue one event.

        Args:
            reply_to: the gateway's reply stream.
            event: the event.
            ending: given with a request's last event.
            first_text: whether this is the first text of its request that a client will see.
            private: whether nobody may read the event in Redis.
        """
        self._items.append(_Item(reply_to, event, ending, first_text, private))
        self._empty.clear()
        self._wake.set()

    async def drained(self) -> None:
        """Returns when everything that was put is in Redis."""
        await self._empty.wait()

    async def flush_forever(self) -> None:
        """Write until cancelled; while Redis is away, hold and try again."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            items, self._items = self._items, []
            self._in_hand = len(items)
            while items:
                try:
                    await self._write(items)
                    items = []
                except redis.exceptions.RedisError:
                    logger.exception("%d events could not be written; trying again", len(items))
                    await asyncio.sleep(_RETRY_SECONDS)
            self._in_hand = 0
            if not self._items:
                self._empty.set()

    async def _write(self, items: list[_Item]) -> None:
        replies: dict[str, list[wire.ReplyEvent]] = {}
        private = {item.reply_to for item in items if item.private}
        async with self._redis.pipeline(transaction=True) as pipe:
            for item in items:
                replies.setdefault(item.reply_to, []).append(item.event)
                if item.first_text:
                    pipe.set(wire.started_key(item.event.request_id), 1, ex=wire.REPLY_EXPIRY_SECONDS)
                if item.ending is not None:
                    record = message_payload(item.ending.record)
                    pipe.xadd(wire.LEDGER_STREAM, {wire.KIND: "completion", wire.PAYLOAD: record})
            for reply_to, events in replies.items():
                payload = wire.pack_replies(events)
                pipe.xadd(reply_to, {wire.PAYLOAD: seal(payload) if reply_to in private else payload})
                pipe.expire(reply_to, wire.REPLY_EXPIRY_SECONDS)
            for item in items:
                if item.ending is not None:
                    pipe.xack(item.ending.stream, wire.REQUEST_GROUP, item.ending.entry_id)
                    pipe.xdel(item.ending.stream, item.ending.entry_id)
                    if item.event.number > 1:
                        pipe.delete(wire.started_key(item.event.request_id))
            await pipe.execute()
