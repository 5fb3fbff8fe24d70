"""Keeping the in-memory view fresh: a published change is seen at once, a missed one within a second."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from experiments import wire
from experiments.routing import UNWATCHED_AFTER_SECONDS, Routing

logger = logging.getLogger(__name__)
POLL_SECONDS = 1.0


class RoutingCache:
    """Holds the newest :class:`Routing`.

    Args:
        redis: asynchronous client.
        load: reads the routing of a version from the database (blocking; runs in a thread).
        prepare: makes ready for a new routing, before it is in use.

    Attributes:
        refreshed_at: when the version was last found to be the newest, by ``time.monotonic``.
    """

    def __init__(
        self, redis: Any, load: Callable[[int], Routing], prepare: Callable[[], Coroutine[Any, Any, None]] | None = None
    ) -> None:
        self._redis = redis
        self._load = load
        self._prepare = prepare
        self.current = Routing(version=-1)
        self.refreshed_at = 0.0
        self._looks: dict[int, float] = {}

    async def refresh(self) -> None:
        """Load the routing if its version moved."""
        version = int(await self._redis.get(wire.CONFIG_VERSION_KEY) or 0)
        if version != self.current.version:
            routing = await asyncio.to_thread(self._load, version)
            if self._prepare is not None:
                await self._prepare()
            self.current = routing
        await self._read_looks()
        self.refreshed_at = time.monotonic()

    def unwatched(self) -> frozenset[int]:
        """Running experiments that nobody has looked at lately, judged by this process's clock.

        When the news of looks does not arrive either, that counts as no look.
        """
        oldest = time.time() - UNWATCHED_AFTER_SECONDS
        return frozenset(pk for pk, seen in self._looks.items() if seen < oldest)

    async def _read_looks(self) -> None:
        running = [route.experiment for route in self.current.routes.values() if route.experiment is not None]
        if not running:
            self._looks = {}
            return
        stored = await self._redis.mget([wire.looked_key(experiment.id) for experiment in running])
        self._looks = {
            experiment.id: max(experiment.phase_started_at, float(seen or 0))
            for experiment, seen in zip(running, stored, strict=True)
        }

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
