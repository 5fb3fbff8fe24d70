"""What makes a gateway ready."""

from __future__ import annotations

import asyncio
import time

import pytest
import redis

from experiments import wire
from experiments.gateway.health import Check, Database, Pulse, checks, report
from experiments.gateway.limits import Gate, Limits
from experiments.gateway.replies import Replies
from experiments.gateway.routing_cache import RoutingCache
from experiments.routing import Routing
from experiments.services.redis_clients import async_redis


class Parts:
    """A gateway's parts as they are when all is well."""

    def __init__(self) -> None:
        now = time.monotonic()
        self.gate = Gate(Limits())
        self.routing = RoutingCache(None, lambda version: Routing(version))
        self.routing.current, self.routing.refreshed_at = Routing(4), now
        self.replies = Replies(None, "test")
        self.replies.read_at = now
        self.pulse = Pulse(self.gate, measured_at=now, hosted=frozenset({1}), wanted=frozenset({1}))

    def report(self, *more: Check) -> tuple[int, str, dict[str, bool]]:
        status, body = report([*checks(self.gate, self.routing, self.replies, self.pulse), *more])
        return status, body["status"], {name: check["ok"] for name, check in body["checks"].items()}


def test_ready_when_all_is_well() -> None:
    status, word, found = Parts().report()
    assert (status, word) == (200, "ready")
    assert set(found) == {"draining", "routing", "redis", "replies", "engine_hosts"}
    assert all(found.values())


def test_not_ready_while_draining() -> None:
    parts = Parts()
    parts.gate.draining = True
    assert parts.report()[:2] == (503, "unavailable")


def test_not_ready_before_the_routing_is_loaded() -> None:
    parts = Parts()
    parts.routing.current = Routing(-1)
    status, _, found = parts.report()
    assert (status, found["routing"]) == (503, False)


@pytest.mark.parametrize("silent", ["redis", "replies"])
def test_not_ready_when_redis_or_the_replies_are_silent(silent: str) -> None:
    parts = Parts()
    if silent == "redis":
        parts.pulse.measured_at -= 6
    else:
        parts.replies.read_at -= 6
    status, _, found = parts.report()
    assert (status, [name for name, ok in found.items() if not ok]) == (503, [silent])


def test_not_ready_without_any_engine_host() -> None:
    parts = Parts()
    parts.pulse.hosted = frozenset()
    assert parts.report()[:2] == (503, "unavailable")


def test_degraded_when_one_of_two_checkpoints_has_no_host() -> None:
    parts = Parts()
    parts.pulse.wanted = frozenset({1, 2})
    status, word, found = parts.report()
    assert (status, word, found["engine_hosts"]) == (200, "degraded", False)


def test_degraded_without_postgresql() -> None:
    def refuse() -> None:
        raise ConnectionError("host db.internal refused me")

    check = asyncio.run(Database(refuse).check())
    assert "db.internal" not in check.detail
    assert Parts().report(check)[:2] == (200, "degraded")


def test_postgresql_is_not_asked_by_every_probe() -> None:
    asked = []

    async def ask_twice() -> Check:
        database = Database(lambda: asked.append(1))
        await database.check()
        return await database.check()

    assert asyncio.run(ask_twice()).ok
    assert len(asked) == 1


async def test_the_pulse_sees_queues_ledger_and_hosts(redis_client: redis.Redis) -> None:
    redis_client.xadd(wire.LEDGER_STREAM, {"k": "x"})
    redis_client.xadd(wire.request_stream(1), {"d": "x"})
    redis_client.set(wire.host_key(2), "host", ex=60)
    pulse = Pulse(Gate(Limits()))
    client = async_redis()
    try:
        await pulse.measure(client, {1, 2})
    finally:
        await client.aclose()
    assert (pulse.ledger, pulse.dead_letters, pulse.hosted) == (1, 0, frozenset({2}))
    assert pulse.gate.depths == {1: 1, 2: 0}
