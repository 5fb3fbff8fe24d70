"""Appending to Redis streams for all requests of a gateway: what comes while a write is under way goes together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import redis.exceptions

logger = logging.getLogger(__name__)
_RETRY_SECONDS = 0.2
_WRITE_SECONDS = 10.0


Entry = tuple[str, Mapping[bytes, Any]]
Calls = Sequence[tuple[Entry, ...]]


class RedisAppender:
    """Appends over a connection of its own.

    A pipeline of the client costs several times as much: it takes a connection, makes a task for each limit in time,
    and retries, which is the caller's affair here.

    Args:
        redis: asynchronous client.
    """

    def __init__(self, redis: Any) -> None:
        self._pool = redis.connection_pool
        self._connection: Any = None

    async def __call__(self, calls: Calls) -> None:
        """Write the entries of all calls. Nobody sees a part of a call's entries.

        Raises:
            redis.exceptions.RedisError: they are not all there, as far as can be told.
        """
        commands: list[tuple[Any, ...]] = [
            ("XADD", stream, "*", *chain.from_iterable(fields.items()))
            for entries in calls
            for stream, fields in entries
        ]
        if any(len(call) > 1 for call in calls):
            commands = [("MULTI",), *commands, ("EXEC",)]
        try:
            async with asyncio.timeout(_WRITE_SECONDS):
                connection = self._connection or await self._connect()
                await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
                answers = [await connection.read_response() for _ in commands]
            # What fails within a transaction is told in its answer, not as its failure.
            if isinstance(answers[-1], list) and (failed := [a for a in answers[-1] if isinstance(a, Exception)]):
                raise failed[0]
        except TimeoutError as error:
            await self.close()
            raise redis.exceptions.TimeoutError(f"Redis kept silent for {_WRITE_SECONDS:g} seconds") from error
        except BaseException:
            await self.close()  # answers that were not read would be taken for those of the next call
            raise

    async def _connect(self) -> Any:
        connection = await self._pool.get_connection()
        connection.socket_timeout = None  # the limit above is for the whole exchange
        self._connection = connection
        return connection

    async def close(self) -> None:
        """Close the connection; the next call makes another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)
            await self._pool.release(connection)


class StreamWriter:
    """Writes entries; those of all calls that come while a write is under way go together.

    Args:
        write: writes the entries of several calls.
    """

    def __init__(self, write: Callable[[Calls], Awaitable[None]]) -> None:
        self._write = write
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
                await self._write([entries for entries, _ in calls])
            except redis.exceptions.RedisError as error:
                _settle(calls, error)
            except BaseException:
                _settle(calls, redis.exceptions.ConnectionError("the gateway is stopping"))
                raise
            else:
                _settle(calls, None)


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
