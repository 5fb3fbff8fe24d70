"""Whether a gateway can do its work: what it measures every half second, and what it makes of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from experiments import wire
from experiments.gateway.limits import Gate
from experiments.gateway.replies import Replies
from experiments.gateway.routing_cache import RoutingCache
from experiments.routing import Routing

logger = logging.getLogger(__name__)
MEASURE_SECONDS = 0.5
# Well above every blocking read, well below what a load balancer should wait.
SILENT_AFTER_SECONDS = 5.0
DATABASE_SECONDS = 2.0
_DATABASE_CACHE_SECONDS = 5.0


def hosted_checkpoints(routing: Routing) -> frozenset[int]:
    """Checkpoints that requests may be sent to, by what is in force and by experiments."""
    arms = {route.in_force.checkpoint_id for route in routing.routes.values()}
    for route in routing.routes.values():
        arms |= {arm.checkpoint_id for experiment in route.experiments for arm in experiment.arms}
    return frozenset(arms)


@dataclass(slots=True)
class Pulse:
    """What Redis says of queues, ledger and engine hosts; measured in one round trip.

    Attributes:
        measured_at: when Redis last answered, by ``time.monotonic``.
        ledger: entries of the ledger that are not stored yet.
        dead_letters: entries that could not be stored.
        hosted: checkpoints that an engine host serves now.
        wanted: checkpoints that need an engine host.
    """

    gate: Gate
    measured_at: float = 0.0
    ledger: int = 0
    dead_letters: int = 0
    hosted: frozenset[int] = frozenset()
    wanted: frozenset[int] = frozenset()

    async def measure(self, redis: Any, wanted: Iterable[int]) -> None:
        """Ask Redis once."""
        checkpoints = sorted(wanted)
        async with redis.pipeline(transaction=False) as pipe:
            pipe.xlen(wire.LEDGER_STREAM)
            pipe.xlen(wire.LEDGER_DEAD_STREAM)
            for checkpoint_id in checkpoints:
                pipe.xlen(wire.request_stream(checkpoint_id))
                pipe.exists(wire.host_key(checkpoint_id))
            self.ledger, self.dead_letters, *rest = await pipe.execute()
        lengths, alive = rest[::2], rest[1::2]
        now = time.monotonic()
        self.gate.measured(dict(zip(checkpoints, lengths, strict=True)), max(now - self.measured_at, 1e-3))
        self.hosted = frozenset(pk for pk, there in zip(checkpoints, alive, strict=True) if there)
        self.wanted = frozenset(checkpoints)
        self.measured_at = now

    async def measure_forever(self, redis: Any, wanted: Callable[[], Iterable[int]]) -> None:
        """Measure until cancelled."""
        failing = False
        while True:
            try:
                await self.measure(redis, wanted())
                failing = False
            except asyncio.CancelledError:
                raise
            except Exception as error:
                if not failing:
                    logger.warning("the queues can't be measured (%s); trying again", error)
                failing = True
            await asyncio.sleep(MEASURE_SECONDS)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        required: whether the gateway is not ready without it.
        detail: what was seen, for people.
    """

    name: str
    ok: bool
    detail: str
    required: bool = True


@dataclass(slots=True)
class Database:
    """Whether PostgreSQL answers; asked in a thread, at most every few seconds.

    Args:
        ask: a blocking query that raises when there is no answer.
    """

    ask: Callable[[], object]
    _asked_at: float = -_DATABASE_CACHE_SECONDS
    _error: str = ""
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def check(self) -> Check:
        """Not required: the hot path asks no database; admissions and completions wait in the ledger."""
        async with self._asking:
            if time.monotonic() - self._asked_at > _DATABASE_CACHE_SECONDS:
                self._error = await self._try()
                self._asked_at = time.monotonic()
        return Check("postgresql", not self._error, self._error or "answers", required=False)

    async def _try(self) -> str:
        try:
            await asyncio.wait_for(asyncio.to_thread(self.ask), DATABASE_SECONDS)
        except TimeoutError:
            return f"no answer within {DATABASE_SECONDS:g} s"
        except Exception as error:
            # The message of a database error may name addresses and users.
            return f"no answer ({type(error).__name__})"
        return ""


def checks(gate: Gate, routing: RoutingCache, replies: Replies, pulse: Pulse) -> list[Check]:
    """Everything that a gateway needs by itself, none of it asked anew."""
    now = time.monotonic()
    loaded = routing.current.version >= 0
    version = f"version {routing.current.version}, checked {now - routing.refreshed_at:.1f} s ago"
    return [
        Check("draining", not gate.draining, "shutting down" if gate.draining else "no"),
        Check("routing", loaded, version if loaded else "not loaded yet"),
        _heard_of("redis", now - pulse.measured_at),
        _heard_of("replies", now - replies.read_at),
        _hosts(pulse),
    ]


def _heard_of(name: str, seconds: float) -> Check:
    seen = f"last answer {seconds:.1f} s ago" if seconds < 1e5 else "no answer yet"
    return Check(name, seconds < SILENT_AFTER_SECONDS, seen)


def _hosts(pulse: Pulse) -> Check:
    """Whether anybody decodes.

    One checkpoint without a host is reported and does not take the gateway away from the others' requests; its own
    wait in its queue for a host to come back. Without any host there is nothing that this gateway could do.
    """
    missing = sorted(pulse.wanted - pulse.hosted)
    if not missing:
        return Check("engine_hosts", True, f"all {len(pulse.wanted)} checkpoints have a host")
    names = ", ".join(str(pk) for pk in missing)
    return Check("engine_hosts", False, f"no host for checkpoint {names}", required=not pulse.hosted)


def report(found: list[Check]) -> tuple[int, dict[str, Any]]:
    """Status and body of /readyz: ready, degraded (something that is not required is missing) or unavailable."""
    ready = all(check.ok for check in found if check.required)
    status = "unavailable" if not ready else "ready" if all(check.ok for check in found) else "degraded"
    body = {check.name: {"ok": check.ok, "required": check.required, "detail": check.detail} for check in found}
    return 200 if ready else 503, {"status": status, "checks": body}
