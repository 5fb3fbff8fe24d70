"""Appends against a real Redis: in order, with refusals told, and over a connection that may break."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
import redis
import redis.exceptions

from experiments.gateway.stream_writer import RedisAppender, StreamWriter
from experiments.services.redis_clients import async_redis


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 20))


def entry(stream: str, value: bytes) -> tuple[str, dict[bytes, Any]]:
    return stream, {b"d": value}


def values(client: redis.Redis, stream: str) -> list[bytes]:
    return [fields[b"d"] for _, fields in client.xrange(stream)]


def test_what_comes_together_is_written_in_order(redis_client: redis.Redis) -> None:
    async def test() -> None:
        connection = async_redis()
        appender = RedisAppender(connection)
        writer = StreamWriter(appender)
        writing = asyncio.create_task(writer.write_forever())
        await asyncio.gather(*(writer.append(entry("s", b"%d" % n)) for n in range(200)))
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        await appender.close()
        await connection.aclose()

    run(test())
    assert values(redis_client, "s") == [b"%d" % n for n in range(200)]


@pytest.mark.parametrize("others", [(), (("a", b"3"),)], ids=["alone", "in a transaction"])
def test_what_redis_refuses_is_an_error_and_the_next_write_is_none_the_worse(
    redis_client: redis.Redis, others: tuple[tuple[str, bytes], ...]
) -> None:
    redis_client.set("no-stream", 1)

    async def test() -> None:
        connection = async_redis()
        appender = RedisAppender(connection)
        await appender([(entry("a", b"1"), entry("b", b"2"))])
        with pytest.raises(redis.exceptions.ResponseError, match="WRONGTYPE"):
            await appender([(*(entry(*other) for other in others), entry("no-stream", b"3"))])
        await appender([(entry("a", b"4"),)])
        await appender.close()
        await connection.aclose()

    run(test())
    assert values(redis_client, "a") == [b"1", *(value for _, value in others), b"4"]
    assert values(redis_client, "b") == [b"2"]


def test_after_a_broken_connection_the_next_write_makes_another(redis_client: redis.Redis) -> None:
    async def test() -> None:
        connection = async_redis()
        appender = RedisAppender(connection)
        await appender([(entry("s", b"1"),)])
        redis_client.client_kill_filter(_type="normal", skipme=True)
        with pytest.raises(redis.exceptions.ConnectionError):
            await appender([(entry("s", b"2"),)])
        await appender([(entry("s", b"3"),)])
        await appender.close()
        await connection.aclose()

    run(test())
    assert values(redis_client, "s") == [b"1", b"3"]


def test_those_who_wait_hear_of_a_failure_and_the_writer_goes_on() -> None:
    async def test() -> None:
        failures = [redis.exceptions.ConnectionError("gone"), None]

        async def write(calls: Any) -> None:
            if (failure := failures.pop(0)) is not None:
                raise failure

        writer = StreamWriter(write)
        writing = asyncio.create_task(writer.write_forever())
        with pytest.raises(redis.exceptions.ConnectionError, match="gone"):
            await writer.append(entry("s", b"1"))
        await writer.append(entry("s", b"2"))
        writing.cancel()

    run(test())
