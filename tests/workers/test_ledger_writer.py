"""The batch writer against real servers: nothing lost, nothing twice, nothing stuck."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from experiments import wire
from experiments.models import Admission, Completion, UseCase
from experiments.services.redis_clients import sync_redis_client
from tests.system.conftest import registered as registered  # the fixture
from tests.system.conftest import wait_for
from workers.ledger_writer import LedgerWriter


def admission(use_case: UseCase, number: int, **changes: Any) -> wire.AdmissionRecord:
    now = time.time()
    values: dict[str, Any] = {
        "id": f"chatcmpl-{number}",
        "use_case_id": use_case.pk,
        "checkpoint_id": use_case.checkpoint_id,
        "phase_id": None,
        "variant_id": None,
        "unit_hash": "",
        "policy": {"name": "full", "parameters": {}},
        "policy_version": "v",
        "reference": None,
        "admitted_at": now,
        "deadline_at": now + 60,
    }
    return wire.AdmissionRecord(**{**values, **changes})


def completion(number: int) -> wire.CompletionRecord:
    return wire.CompletionRecord(f"chatcmpl-{number}", "answered", time.time(), answer="42", text="42")


def put(client: redis.Redis, kind: str, record: wire.AdmissionRecord | wire.CompletionRecord) -> None:
    client.xadd(wire.LEDGER_STREAM, {wire.KIND: kind, wire.PAYLOAD: record.encode()})


@pytest.fixture
def writer() -> Iterator[LedgerWriter]:
    writer = LedgerWriter(sync_redis_client)
    yield writer
    writer.stop()


def test_stored_entries_leave_the_stream(registered: UseCase, redis_client: redis.Redis, writer: LedgerWriter) -> None:
    for number in range(3):
        put(redis_client, "admission", admission(registered, number))
        put(redis_client, "completion", completion(number))
    writer.start()
    wait_for(lambda: Completion.objects.count() == 3)
    wait_for(lambda: redis_client.xlen(wire.LEDGER_STREAM) == 0)
    assert redis_client.xpending(wire.LEDGER_STREAM, wire.LEDGER_GROUP)["pending"] == 0


def test_an_entry_that_cannot_be_stored_is_set_aside_and_holds_up_nothing(
    registered: UseCase, redis_client: redis.Redis, writer: LedgerWriter
) -> None:
    put(redis_client, "admission", admission(registered, 1))
    put(redis_client, "admission", admission(registered, 2, use_case_id=999_999))
    put(redis_client, "admission", admission(registered, 3))
    redis_client.xadd(wire.LEDGER_STREAM, {wire.KIND: "completion", wire.PAYLOAD: b"no json"})
    redis_client.xadd(wire.LEDGER_STREAM, {"something": "else"})
    writer.start()
    wait_for(lambda: redis_client.xlen(wire.LEDGER_DEAD_STREAM) == 3)
    assert set(Admission.objects.values_list("pk", flat=True)) == {"chatcmpl-1", "chatcmpl-3"}
    wait_for(lambda: redis_client.xlen(wire.LEDGER_STREAM) == 0)


def test_entries_that_a_dead_writer_took_are_stored(
    registered: UseCase, redis_client: redis.Redis, writer: LedgerWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.ledger_writer._DEAD_AFTER_MILLISECONDS", 50)
    put(redis_client, "admission", admission(registered, 1))
    redis_client.xgroup_create(wire.LEDGER_STREAM, wire.LEDGER_GROUP, id="0")
    redis_client.xreadgroup(wire.LEDGER_GROUP, "dead-writer", {wire.LEDGER_STREAM: ">"})
    writer.start()
    wait_for(lambda: Admission.objects.filter(pk="chatcmpl-1").exists())


def test_a_record_that_comes_twice_is_stored_once(
    registered: UseCase, redis_client: redis.Redis, writer: LedgerWriter
) -> None:
    record = completion(1)
    put(redis_client, "admission", admission(registered, 1))
    for _ in range(2):
        put(redis_client, "completion", record)
    writer.start()
    wait_for(lambda: redis_client.xlen(wire.LEDGER_STREAM) == 0)
    assert Completion.objects.count() == 1
