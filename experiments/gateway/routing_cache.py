"""Keeping the in-memory view fresh: a published change is seen at once, a missed one within a second."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from experiments import wire
from experiments.routing import Routing

logger = logging.getLogger(__name__)
POLL_SECONDS = 1.0


class RoutingCache:
    """Holds the newest :class:`Routing`.

    Args:
        redis: asynchronous client.
        load: reads the routing of a version from the database (blocking; runs in a thread).
    """

    def __init__(self, redis: Any, load: Callable[[int], Routing]) -> None:
        self._redis = redis
        self._load = load
        self.current = Routing(version=-1)

    async def refresh(self) -> None:
        """Load the routing if its version moved."""
        version = int(await self._redis.get(wire.CONFIG_VERSION_KEY) or 0)
        if version != self.current.version:
            self.current = await asyncio.to_thread(self._load, version)

    async def keep_fresh(self) -> None:
        """Refresh at each published change, and look at the version every second; never returns."""
        while True:
            try:
                async with self._redis.pubsub() as channel:
                    await channel.subscribe(wire.CONFIG_CHANNEL)
                    while True:
                        await self.refresh()
                        await channel.get_message(ignore_subscribe_messages=True, timeout=POLL_SECONDS)
            except asyncio.CancelledError:
                raise
            except Exception:
                # Serve by the last view until PostgreSQL and Redis are back.
                logger.exception("the routing could not be refreshed; the last one stays in use")
                await asyncio.sleep(POLL_SECONDS)
