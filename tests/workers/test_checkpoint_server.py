"""Taking requests from the stream: endings, deadlines, cancellation and take-over, against a real Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
import redis

from experiments import wire
from experiments.asyncio_tasks import end_tasks
from experiments.policies import Exit, ExitReason
from experiments.services.redis_clients import async_redis
from workers import checkpoint_server
from workers.checkpoint_server import CheckpointServer
from workers.engines.base import (
    Delta,
    DeltaKind,
    EnforcementFailure,
    EngineError,
    Finished,
    FinishReason,
    GenerationRequest,
    GenerationResult,
    TokenCounts,
)
from workers.outbox import Outbox

CHECKPOINT = 7
STREAM = wire.request_stream(CHECKPOINT)
REPLIES = wire.reply_stream("test")


class PlannedEngine:
    """Answers as the request's last message says: "answer", "fail", or "hang" until cancelled."""

    max_concurrency = 4
    alive = True

    def __init__(self) -> None:
        self.cancelled: dict[str, asyncio.Event] = {}
        self.served: list[str] = []

    async def start(self) -> None:
        return None

    async def close(self) -> None:
        return None

    def cancel(self, request_id: str) -> None:
        self.cancelled.setdefault(request_id, asyncio.Event()).set()

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Delta | Finished]:
        self.served.append(request.id)
        plan = request.messages[-1]["content"]
        if plan == "fail":
            raise EngineError("out of memory")
        if request.stream:
            yield Delta(DeltaKind.THINKING, "hm")
        reason = FinishReason.STOP
        if plan == "hang":
            await self.cancelled.setdefault(request.id, asyncio.Event()).wait()
            reason = FinishReason.CANCELLED
        left = Exit(ExitReason.CONFIDENT, 5, "sure")
        if plan == "audited":
            tokens = TokenCounts(3, 5, 2, 4, 1, prefill=9, estimated=("prefill", "probe"))
            failures = (EnforcementFailure.CUT_CHARACTER, EnforcementFailure.EMPTY_ANSWER)
            yield Finished(GenerationResult(reason, "hm", "", "", left, 7, tokens, 2, 0.0, failures=failures))
            return
        yield Finished(GenerationResult(reason, "hm", "42", "42", left, 5, TokenCounts(3, 5, 2, 4, 1), 2, 0.0))


def request(number: int, plan: str, *, seconds: float = 30.0, stream: bool = False) -> wire.ServeRequest:
    now = time.time()
    return wire.ServeRequest(
        id=f"chatcmpl-{number}",
        reply_to=REPLIES,
        messages=[{"role": "user", "content": plan}],
        policy={"name": "full", "parameters": {}},
        stream=stream,
        temperature=0.0,
        top_p=1.0,
        seed=None,
        max_tokens=None,
        admitted_at=now,
        deadline_at=now + seconds,
    )


@asynccontextmanager
async def serving(engine: PlannedEngine, consumer: str = "host") -> AsyncIterator[CheckpointServer]:
    client = async_redis()
    outbox = Outbox(client)
    server = CheckpointServer(client, outbox, engine, CHECKPOINT, consumer)
    tasks = [asyncio.create_task(outbox.flush_forever()), asyncio.create_task(server.run())]
    try:
        yield server
    finally:
        await end_tasks(tasks, again_after=5.0)
        await server.drain(0.01)
        await client.aclose()


def send(client: redis.Redis, message: wire.ServeRequest) -> bytes:
    return client.xadd(STREAM, {wire.PAYLOAD: message.encode()})


async def records(client: redis.Redis, count: int = 1) -> list[dict[str, Any]]:
    """The ledger's completion records, once there are so many."""
    deadline = time.monotonic() + 10
    while client.xlen(wire.LEDGER_STREAM) < count:
        assert time.monotonic() < deadline, "no record within 10 s"
        await asyncio.sleep(0.01)
    return [orjson.loads(fields[wire.PAYLOAD]) for _, fields in client.xrange(wire.LEDGER_STREAM)]


async def served(engine: PlannedEngine) -> None:
    """Returns once the engine has been asked."""
    async with asyncio.timeout(10):
        while not engine.served:
            await asyncio.sleep(0.01)


def replies(client: redis.Redis) -> list[wire.ReplyEvent]:
    return [e for _, fields in client.xrange(REPLIES) for e in wire.unpack_replies(fields[wire.PAYLOAD])]


async def test_an_answer_is_recorded_replied_and_acknowledged_together(redis_client: redis.Redis) -> None:
    send(redis_client, request(1, "answer"))
    async with serving(PlannedEngine()):
        (record,) = await records(redis_client)
    assert record["outcome"] == "answered"
    assert record["exit_reason"] == "confident"
    kinds = ("thinking_tokens", "answer_tokens", "probe_tokens", "overrun_tokens", "prompt_tokens")
    assert [record[kind] for kind in kinds] == [5, 2, 4, 1, 3]
    (reply,) = replies(redis_client)
    assert (reply.request_id, reply.kind, reply.body["answer"]) == ("chatcmpl-1", "finished", "42")
    assert redis_client.xlen(STREAM) == 0
    assert redis_client.xpending(STREAM, wire.REQUEST_GROUP)["pending"] == 0


async def test_what_the_audit_found_and_what_is_estimated_is_recorded(redis_client: redis.Redis) -> None:
    async with serving(PlannedEngine()):
        send(redis_client, request(1, "audited"))
        (record,) = await records(redis_client)
    assert record["enforcement_failures"] == "cut_character,empty_answer"
    assert (record["prefill_tokens"], record["estimated_counts"]) == (9, "prefill,probe")
    assert (record["decision_step"], record["applied_step"]) == (5, 7)


async def test_an_engine_error_ends_its_own_request_alone(redis_client: redis.Redis) -> None:
    send(redis_client, request(1, "fail"))
    send(redis_client, request(2, "answer"))
    async with serving(PlannedEngine()):
        found = {record["id"]: record for record in await records(redis_client, 2)}
    assert found["chatcmpl-1"]["outcome"] == "error"
    assert found["chatcmpl-1"]["error"] == "out of memory"
    assert found["chatcmpl-2"]["outcome"] == "answered"


async def test_a_deadline_stops_decoding_and_is_recorded_as_timeout(redis_client: redis.Redis) -> None:
    send(redis_client, request(1, "hang", seconds=0.3))
    async with serving(PlannedEngine()):
        (record,) = await records(redis_client)
    assert record["outcome"] == "timeout"
    assert record["thinking_tokens"] == 5
    assert replies(redis_client)[-1].body["status"] == 504


async def test_a_request_past_its_deadline_is_not_decoded(redis_client: redis.Redis) -> None:
    send(redis_client, request(1, "answer", seconds=-1.0))
    engine = PlannedEngine()
    async with serving(engine):
        (record,) = await records(redis_client)
    assert record["outcome"] == "timeout"
    assert engine.served == []


async def test_a_cancellation_is_recorded_with_the_tokens_so_far(redis_client: redis.Redis) -> None:
    send(redis_client, request(1, "hang"))
    engine = PlannedEngine()
    async with serving(engine) as server:
        await served(engine)
        server.cancel("chatcmpl-1")
        (record,) = await records(redis_client)
    assert record["outcome"] == "cancelled"
    assert record["thinking_tokens"] == 5


async def abandoned(client: redis.Redis, message: wire.ServeRequest, deliveries: int = 1) -> None:
    """A request that a host took so many times and never finished."""
    client.xgroup_create(STREAM, wire.REQUEST_GROUP, id="0", mkstream=True)
    entry_id = send(client, message)
    client.xreadgroup(wire.REQUEST_GROUP, "dead-host", {STREAM: ">"})
    for _ in range(deliveries - 1):
        client.xclaim(STREAM, wire.REQUEST_GROUP, "dead-host", min_idle_time=0, message_ids=[entry_id])


@pytest.fixture
def quick_take_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_server, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(checkpoint_server, "DEAD_AFTER_SECONDS", 0.2)


@pytest.mark.usefixtures("quick_take_over")
async def test_the_request_of_a_dead_host_is_taken_over(redis_client: redis.Redis) -> None:
    await abandoned(redis_client, request(1, "answer"))
    async with serving(PlannedEngine()):
        (record,) = await records(redis_client)
    assert record["outcome"] == "answered"
    assert record["deliveries"] == 2


@pytest.mark.usefixtures("quick_take_over")
async def test_a_request_whose_client_has_seen_text_is_not_served_again(redis_client: redis.Redis) -> None:
    await abandoned(redis_client, request(1, "answer", stream=True))
    redis_client.set(wire.started_key("chatcmpl-1"), 1)
    engine = PlannedEngine()
    async with serving(engine):
        (record,) = await records(redis_client)
    assert record["outcome"] == "error"
    assert "failed in mid-answer" in record["error"]
    assert engine.served == []


@pytest.mark.usefixtures("quick_take_over")
async def test_a_request_that_kills_its_hosts_is_given_up(redis_client: redis.Redis) -> None:
    await abandoned(redis_client, request(1, "answer"), deliveries=checkpoint_server.MAX_DELIVERIES)
    engine = PlannedEngine()
    async with serving(engine):
        (record,) = await records(redis_client)
    assert record["outcome"] == "error"
    assert record["error"] == "gave up after 3 deliveries"
    assert engine.served == []


@pytest.mark.usefixtures("quick_take_over")
async def test_heartbeats_keep_a_living_hosts_requests(redis_client: redis.Redis) -> None:
    send(redis_client, request(1, "hang"))
    slow, other = PlannedEngine(), PlannedEngine()
    async with serving(slow, "slow"):
        await served(slow)
        async with serving(other, "other"):
            await asyncio.sleep(1.0)  # five times the time after which a silent host counts as dead
            assert other.served == []
        slow.cancel("chatcmpl-1")
        await records(redis_client)


async def test_a_request_is_marked_as_started_from_its_first_text_to_its_end(redis_client: redis.Redis) -> None:
    send(redis_client, request(1, "hang", stream=True))
    engine = PlannedEngine()
    async with serving(engine):
        async with asyncio.timeout(10):
            while not redis_client.exists(wire.started_key("chatcmpl-1")):
                await asyncio.sleep(0.01)
        assert [event.kind for event in replies(redis_client)] == ["thinking"]
        engine.cancel("chatcmpl-1")
        await records(redis_client)
        assert not redis_client.exists(wire.started_key("chatcmpl-1"))


async def test_the_events_of_a_request_are_numbered(redis_client: redis.Redis) -> None:
    send(redis_client, request(1, "answer", stream=True))
    async with serving(PlannedEngine()):
        await records(redis_client)
    assert [(event.kind, event.number, event.delivery) for event in replies(redis_client)] == [
        ("thinking", 1, 1),
        ("finished", 2, 1),
    ]


async def test_an_entry_that_is_given_out_again_is_not_decoded_twice(redis_client: redis.Redis) -> None:
    send(redis_client, request(1, "hang"))
    engine = PlannedEngine()
    async with serving(engine):
        await served(engine)
        # What a Redis does that came back without its last second.
        redis_client.xgroup_setid(STREAM, wire.REQUEST_GROUP, "0")
        send(redis_client, request(2, "answer"))
        await records(redis_client)
        assert engine.served == ["chatcmpl-1", "chatcmpl-2"]
        engine.cancel("chatcmpl-1")
        found = await records(redis_client, 2)
    assert [record["outcome"] for record in found] == ["answered", "cancelled"]


@pytest.mark.usefixtures("quick_take_over")
async def test_a_host_lets_go_of_what_another_one_took_over(redis_client: redis.Redis) -> None:
    entry_id = send(redis_client, request(1, "hang"))
    engine = PlannedEngine()
    async with serving(engine) as server:
        await served(engine)
        redis_client.xclaim(STREAM, wire.REQUEST_GROUP, "other", min_idle_time=0, message_ids=[entry_id], idle=0)
        async with asyncio.timeout(10):
            while server.in_flight:
                redis_client.xclaim(STREAM, wire.REQUEST_GROUP, "other", 0, [entry_id], justid=True)
                await asyncio.sleep(0.01)
    assert redis_client.xlen(wire.LEDGER_STREAM) == 0


@pytest.mark.parametrize("payload", [b"no json", b'{"id": "x", "from": "another version"}'])
async def test_an_entry_that_cannot_be_read_is_dropped_and_serving_goes_on(
    redis_client: redis.Redis, payload: bytes
) -> None:
    redis_client.xadd(STREAM, {wire.PAYLOAD: payload})
    send(redis_client, request(1, "answer"))
    async with serving(PlannedEngine()):
        (record,) = await records(redis_client)
        assert redis_client.xlen(STREAM) == 0
        assert redis_client.xpending(STREAM, wire.REQUEST_GROUP)["pending"] == 0
    assert record["id"] == "chatcmpl-1"


@pytest.mark.usefixtures("quick_take_over")
async def test_an_unreadable_entry_of_a_dead_host_is_dropped_too(redis_client: redis.Redis) -> None:
    redis_client.xgroup_create(STREAM, wire.REQUEST_GROUP, id="0", mkstream=True)
    redis_client.xadd(STREAM, {wire.PAYLOAD: b"no json"})
    redis_client.xreadgroup(wire.REQUEST_GROUP, "dead-host", {STREAM: ">"})
    async with serving(PlannedEngine()):
        async with asyncio.timeout(10):
            while redis_client.xlen(STREAM):
                await asyncio.sleep(0.01)
        send(redis_client, request(1, "answer"))
        (record,) = await records(redis_client)
    assert record["outcome"] == "answered"
