"""Shadow runs beside the requests: served when there is room, put back when there is none."""

from __future__ import annotations

import asyncio
import time

import orjson
import pytest
import redis

from experiments import wire
from tests.workers.test_checkpoint_server import CHECKPOINT, PlannedEngine, records, request, send, served, serving
from workers import shadow_server
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


async def test_a_request_that_needs_the_place_gets_it_and_the_run_is_kept(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow_server, "RETRY_AFTER_SECONDS", 0.5)
    engine = PlannedEngine()
    add(redis_client, shadow("s1", "hang"))
    async with serving(engine) as server:
        await served(engine)
        for number in range(4):
            send(redis_client, request(number, "hang"))
        await until(lambda: len(engine.served) == 5)
        await until(lambda: server._shadow.running == 0)
        assert pending(redis_client) == 1
        assert redis_client.xlen(wire.LEDGER_STREAM) == 0
        for number in range(4):
            server.cancel(f"chatcmpl-{number}")
        await until(lambda: engine.served.count("s1") == 2)


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
