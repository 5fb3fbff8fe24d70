"""The gateways' in-memory view for synchronous code: read anew when the configuration's version has moved."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from experiments import wire
from experiments.routing import UNWATCHED_AFTER_SECONDS, Route, Routing
from experiments.services.redis_clients import sync_redis
from experiments.services.routing import load_routing


class RoutingView:
    """Holds the newest :class:`Routing` of a process; safe in threads.

    Args:
        connect: gives a synchronous Redis client.
        load: reads the routing of a version from the database.
    """

    def __init__(self, connect: Callable[[], Any], load: Callable[[int], Routing]) -> None:
        self._connect = connect
        self._load = load
        self._loading = threading.Lock()
        self._held = Routing(version=-1)

    def current(self) -> Routing:
        """The routing of the newest version.

        Raises:
            redis.exceptions.RedisError: the version cannot be read.
        """
        version = int(self._connect().get(wire.CONFIG_VERSION_KEY) or 0)
        held = self._held
        if held.version == version:
            return held
        with self._loading:
            if self._held.version != version:
                self._held = self._load(version)
            return self._held

    def unwatched(self, route: Route) -> frozenset[int]:
        """The route's experiments that nobody has looked at lately, by the same rule as in gateways."""
        if not route.experiments:
            return frozenset()
        oldest = time.time() - UNWATCHED_AFTER_SECONDS
        looks: Any = self._connect().mget([wire.looked_key(experiment.id) for experiment in route.experiments])
        return frozenset(
            experiment.id
            for experiment, looked in zip(route.experiments, looks, strict=True)
            if max(experiment.phase_started_at, float(looked or 0)) < oldest
        )

    def forget(self) -> None:
        """Read the routing anew at the next call."""
        self._held = Routing(version=-1)


routing_view = RoutingView(sync_redis, load_routing)
