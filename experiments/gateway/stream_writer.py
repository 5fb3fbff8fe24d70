"""Appending to Redis streams for all requests of a gateway: what comes while a write is under way goes together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import redis.exceptions

from experiments import wire

logger = logging.getLogger(__name__)
_RETRY_SECONDS = 0.2


class StreamWriter:
    """Writes entries, each call's all or none, in one Redis transaction for all calls that wait.

    Args:
        redis: asynchronous client.
    """

    def __init__(self, redis: Any) -> None:
        self._redis = redis
        self._calls: list[tuple[tuple[Entry, ...], asyncio.Future[None]]] = []
        self._wake = asyncio.Event()

    async def append(self, *entries: Entry) -> None:
        """Returns once the entries are in Redis.

        Raises:
            redis.exceptions.RedisError: they are not, as far as can be told.
        """
        written = asyncio.get_running_loop().create_future()
        self._calls.append((entries, written))
        self._wake.set()
        await written

    async def append_surely(self, *entries: Entry) -> None:
        """Like :meth:`append`, but tries again while Redis is away; an entry may then be there twice."""
        while True:
            try:
                return await self.append(*entries)
            except redis.exceptions.RedisError as error:
                logger.warning("%d entries could not be written (%s); trying again", len(entries), error)
                await asyncio.sleep(_RETRY_SECONDS)

    async def write_forever(self) -> None:
        """Write until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            calls, self._calls = self._calls, []
            try:
                await self._write([entry for entries, _ in calls for entry in entries])
            except redis.exceptions.RedisError as error:
                _settle(calls, error)
            except BaseException:
                _settle(calls, redis.exceptions.ConnectionError("the gateway is stopping"))
                raise
            else:
                _settle(calls, None)

    async def _write(self, entries: list[Entry]) -> None:
        async with self._redis.pipeline(transaction=True) as pipe:
            for stream, fields in entries:
                pipe.xadd(stream, fields)
            await pipe.execute()


Entry = tuple[str, Mapping[bytes, Any]]


def ledger_entry(record: wire.AdmissionRecord | wire.CompletionRecord) -> Entry:
    """The entry of a record in the ledger."""
    kind = "admission" if isinstance(record, wire.AdmissionRecord) else "completion"
    return wire.LEDGER_STREAM, {wire.KIND: kind, wire.PAYLOAD: record.encode()}


def _settle(
    calls: list[tuple[tuple[Entry, ...], asyncio.Future[None]]], error: redis.exceptions.RedisError | None
) -> None:
    for _, written in calls:
        if written.done():  # whoever waited has left
            continue
        if error is None:
            written.set_result(None)
        else:
            written.set_exception(error)
