"""How soon a gateway's memory follows the configuration's version, over a real Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import redis

from experiments import wire
from experiments.gateway.routing_cache import POLL_SECONDS, RoutingCache
from experiments.routing import Routing
from experiments.services.redis_clients import async_redis

SLACK_SECONDS = 1.0  # of a loaded machine


@asynccontextmanager
async def fresh() -> AsyncIterator[RoutingCache]:
    """A cache that keeps itself fresh and has subscribed."""
    client = async_redis()
    cache = RoutingCache(client, lambda version: Routing(version))
    keeping = asyncio.create_task(cache.keep_fresh())
    try:
        await until(lambda: cache.current.version >= 0)
        while not dict(await client.pubsub_numsub(wire.CONFIG_CHANNEL))[wire.CONFIG_CHANNEL.encode()]:
            await asyncio.sleep(0.005)
        yield cache
    finally:
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping
        await client.aclose()


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> float:
    """How long it took until it was true."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds, f"not true within {seconds:g} s"
        await asyncio.sleep(0.005)
    return time.monotonic() - begun


def seen_after(change: Callable[[], object], version: int) -> float:
    """Seconds until a cache has loaded the version after a change."""

    async def measure() -> float:
        async with fresh() as cache:
            change()
            return await until(lambda: cache.current.version == version)

    return asyncio.run(measure())


def test_a_published_change_is_seen_before_the_next_poll(redis_client: redis.Redis) -> None:
    def announce() -> None:
        redis_client.publish(wire.CONFIG_CHANNEL, redis_client.incr(wire.CONFIG_VERSION_KEY))

    assert seen_after(announce, 1) < POLL_SECONDS / 2


def test_a_change_whose_message_was_missed_is_seen_by_the_next_poll(redis_client: redis.Redis) -> None:
    assert seen_after(lambda: redis_client.incr(wire.CONFIG_VERSION_KEY), 1) < POLL_SECONDS + SLACK_SECONDS


@pytest.mark.parametrize(("version", "lost"), [(5, 0), (5, 3)])
def test_a_version_that_went_back_with_redis_is_seen(redis_client: redis.Redis, version: int, lost: int) -> None:
    """A Redis that restarts without its newest writes has an older version, or none."""
    redis_client.set(wire.CONFIG_VERSION_KEY, version)

    def restart() -> None:
        redis_client.set(wire.CONFIG_VERSION_KEY, lost) if lost else redis_client.delete(wire.CONFIG_VERSION_KEY)

    assert seen_after(restart, lost) < POLL_SECONDS + SLACK_SECONDS


def test_a_connection_that_breaks_is_made_anew(redis_client: redis.Redis) -> None:
    def cut() -> None:
        redis_client.client_kill_filter(_type="pubsub")
        redis_client.client_kill_filter(_type="normal", skipme=True)
        redis_client.incr(wire.CONFIG_VERSION_KEY)

    assert seen_after(cut, 1) < 2 * POLL_SECONDS + SLACK_SECONDS
