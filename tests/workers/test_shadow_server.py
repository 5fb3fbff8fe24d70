"""Shadow runs beside the requests: served when there is room, put back when there is none."""

from __future__ import annotations

import asyncio
import dataclasses
import time

import orjson
import pytest
import redis

from experiments import wire
from tests.workers.test_checkpoint_server import CHECKPOINT, PlannedEngine, records, request, send, served, serving
from workers import shadow_server
from workers.engines.base import GenerationRequest, Sampling
from workers.shadow_server import SHADOW_GROUP

STREAM = wire.shadow_stream(CHECKPOINT)


def shadow(name: str, plan: str = "answer", *, seconds: float = 30.0) -> wire.ShadowRequest:
    policy = {"name": "full", "parameters": {}}
    return wire.ShadowRequest(name, [{"role": "user", "content": plan}], policy, "hm", True, time.time() + seconds)


def add(client: redis.Redis, message: wire.ShadowRequest) -> None:
    client.xadd(STREAM, {wire.PAYLOAD: message.encode()})


def pending(client: redis.Redis) -> int:
    return int(client.xpending(STREAM, SHADOW_GROUP)["pending"])


async def until(condition: object) -> None:
    async with asyncio.timeout(10):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.01)


async def test_a_run_is_recorded_in_the_ledger_and_acknowledged(redis_client: redis.Redis) -> None:
    add(redis_client, shadow("s1"))
    async with serving(PlannedEngine()):
        (record,) = await records(redis_client)
        assert redis_client.xlen(STREAM) == 0
    (_, fields), *_ = redis_client.xrange(wire.LEDGER_STREAM)
    assert fields[wire.KIND] == b"shadow"
    assert (record["id"], record["answer"], record["exit_reason"], record["error"]) == ("s1", "42", "confident", "")
    assert [record[f"{kind}_tokens"] for kind in ("thinking", "answer", "probe", "overrun", "forced")] == [
        5,
        2,
        4,
        1,
        0,
    ]


async def test_a_failing_run_says_why(redis_client: redis.Redis) -> None:
    add(redis_client, shadow("s1", "fail"))
    async with serving(PlannedEngine()):
        (record,) = await records(redis_client)
    assert record["error"] == "out of memory"


async def test_a_run_that_waited_too_long_is_dropped(redis_client: redis.Redis) -> None:
    engine = PlannedEngine()
    add(redis_client, shadow("s1", seconds=-1))
    async with serving(engine):
        (record,) = await records(redis_client)
    assert (record["error"], engine.served) == ("too old", [])


async def test_while_requests_take_more_than_half_of_the_engine_no_run_starts(redis_client: redis.Redis) -> None:
    engine = PlannedEngine()
    for number in range(3):
        send(redis_client, request(number, "hang"))
    async with serving(engine) as server:
        await until(lambda: len(engine.served) == 3)
        add(redis_client, shadow("s1"))
        await asyncio.sleep(3 * shadow_server._IDLE_SECONDS)
        assert "s1" not in engine.served
        for number in range(3):
            server.cancel(f"chatcmpl-{number}")
        await until(lambda: "s1" in engine.served)


async def test_requests_that_need_places_get_them_and_the_runs_go_to_the_end_of_the_stream(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two places of eight: requests that come together displace one run each."""
    monkeypatch.setattr(PlannedEngine, "max_concurrency", 8)
    engine = PlannedEngine()
    for name in ("s1", "s2"):
        add(redis_client, shadow(name, "hang"))
    async with serving(engine) as server:
        await until(lambda: len(engine.served) == 2)
        for number in range(8):
            send(redis_client, request(number, "hang"))
        await until(lambda: len(engine.served) == 10)
        await until(lambda: redis_client.xlen(STREAM) == 2 and pending(redis_client) == 0)
        assert redis_client.xlen(wire.LEDGER_STREAM) == 0
        for number in range(8):
            server.cancel(f"chatcmpl-{number}")
        await until(lambda: engine.served.count("s1") == engine.served.count("s2") == 2)


class _ForgetfulEngine(PlannedEngine):
    """A cancellation holds for the request as it is served now, not for the same id later."""

    def cancel(self, request_id: str) -> None:
        event = self.cancelled.pop(request_id, None)
        if event is not None:
            event.set()


async def test_making_way_is_no_failed_delivery(redis_client: redis.Redis) -> None:
    engine = _ForgetfulEngine()
    add(redis_client, shadow("s1", "hang"))
    async with serving(engine) as server:
        for times in range(1, shadow_server.MAX_DELIVERIES + 3):
            await until(lambda count=times: engine.served.count("s1") == count)
            server._shadow.make_way()
        await until(lambda: engine.served.count("s1") == shadow_server.MAX_DELIVERIES + 3)
    assert redis_client.xlen(wire.LEDGER_STREAM) == 0


async def test_a_long_run_is_kept_alive(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow_server, "RETRY_AFTER_SECONDS", 0.4)
    add(redis_client, shadow("s1", "hang"))
    engine, other = PlannedEngine(), PlannedEngine()
    async with serving(engine):
        await served(engine)
        async with serving(other, "another-host"):
            await asyncio.sleep(2.0)
    assert (engine.served, other.served) == (["s1"], [])


@pytest.mark.parametrize("payload", [b"no json", b'{"id": "s1", "from": "another version"}'])
async def test_an_entry_that_cannot_be_read_is_dropped_and_serving_goes_on(
    redis_client: redis.Redis, payload: bytes
) -> None:
    redis_client.xadd(STREAM, {wire.PAYLOAD: payload})
    add(redis_client, shadow("s1"))
    async with serving(PlannedEngine()):
        (record,) = await records(redis_client)
        send(redis_client, request(1, "answer"))
        await records(redis_client, 2)
        assert redis_client.xlen(STREAM) == 0
    assert record["id"] == "s1"


async def test_a_run_is_sampled_as_its_request_was(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    generate = PlannedEngine.generate

    def noting(self: PlannedEngine, generation: GenerationRequest) -> object:
        asked.append(generation)
        return generate(self, generation)

    monkeypatch.setattr(PlannedEngine, "generate", noting)
    message = dataclasses.replace(shadow("s1"), temperature=0.6, top_p=0.9, max_tokens=77)
    add(redis_client, message)
    async with serving(PlannedEngine()):
        await records(redis_client)
    assert asked[0].sampling == Sampling(0.6, 0.9, None, 77)
    assert (asked[0].forced_thinking, asked[0].forced_end) == ("hm", True)


async def test_a_run_of_a_host_that_died_is_taken_again(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow_server, "RETRY_AFTER_SECONDS", 0.2)
    add(redis_client, shadow("s1"))
    redis_client.xgroup_create(STREAM, SHADOW_GROUP, id="0")
    redis_client.xreadgroup(SHADOW_GROUP, "dead", {STREAM: ">"})
    async with serving(PlannedEngine()):
        (record,) = await records(redis_client)
    assert record["answer"] == "42"


async def test_a_run_that_never_ends_is_given_up(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow_server, "RETRY_AFTER_SECONDS", 0.0)
    add(redis_client, shadow("s1"))
    redis_client.xgroup_create(STREAM, SHADOW_GROUP, id="0")
    redis_client.xreadgroup(SHADOW_GROUP, "dead", {STREAM: ">"})
    for _ in range(shadow_server.MAX_DELIVERIES):
        redis_client.xautoclaim(STREAM, SHADOW_GROUP, "dead", min_idle_time=0)
    async with serving(PlannedEngine()):
        (record,) = await records(redis_client)
    assert record["error"] == "gave up after 3 deliveries"


def test_messages_come_back_as_they_were_sent() -> None:
    message = shadow("s1")
    assert wire.ShadowRequest.decode(message.encode()) == message
    assert orjson.loads(message.encode())["thinking"] == "hm"
