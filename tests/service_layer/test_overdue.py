"""What was admitted and lost gets an outcome, what may still come is left alone."""

from __future__ import annotations

import time

import pytest
import redis

from experiments import wire
from experiments.models import Completion
from experiments.services import overdue
from experiments.services.assigned_ids import make_id
from experiments.services.ledger import ingest
from experiments.services.overdue import LOST, end_overdue
from tests.service_layer.conftest import Admit, answered

pytestmark = pytest.mark.usefixtures("settled_redis")


@pytest.fixture
def settled_redis(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' Redis may have started a moment ago."""
    monkeypatch.setattr(overdue, "LOST_AFTER_SECONDS", 0)


def long_ago(admit: Admit, number: str, seconds: float = 1000.0) -> wire.AdmissionRecord:
    at = time.time() - seconds
    return admit(number, admitted_at=at, deadline_at=at + 60)


def test_a_lost_request_ends_as_a_timeout_at_its_deadline(admit: Admit, redis_client: redis.Redis) -> None:
    admission = long_ago(admit, "lost")
    ingest([admission], [])
    assert end_overdue(redis_client) == 1
    row = Completion.objects.get()
    assert (row.id, row.outcome, row.error) == ("lost", "timeout", LOST)
    assert row.completed_at.timestamp() == pytest.approx(admission.deadline_at)


def test_what_has_an_ending_keeps_it(admit: Admit, redis_client: redis.Redis) -> None:
    ingest([long_ago(admit, "a")], [answered("a")])
    assert end_overdue(redis_client) == 0
    assert Completion.objects.get().outcome == "answered"


def test_what_is_served_elsewhere_may_still_be_posted(admit: Admit, redis_client: redis.Redis) -> None:
    number = make_id(1, 1, time.time() - 1000)
    ingest([long_ago(admit, number)], [])
    assert end_overdue(redis_client) == 0
    ingest([], [answered(number)])
    assert Completion.objects.get().outcome == "answered"


def test_what_has_not_reached_its_deadline_waits(admit: Admit, redis_client: redis.Redis) -> None:
    ingest([admit("new", admitted_at=time.time(), deadline_at=time.time() + 60)], [])
    assert end_overdue(redis_client) == 0
    assert not Completion.objects.exists()


def test_nothing_is_ended_while_the_ledger_is_behind(admit: Admit, redis_client: redis.Redis) -> None:
    ingest([long_ago(admit, "a")], [])
    behind = f"{int((time.time() - 100) * 1000)}-0"
    redis_client.xadd(wire.LEDGER_STREAM, {wire.KIND: "completion", wire.PAYLOAD: answered("a").encode()}, id=behind)
    assert end_overdue(redis_client) == 0
    redis_client.delete(wire.LEDGER_STREAM)
    assert end_overdue(redis_client) == 1


def test_nothing_is_ended_just_after_redis_came_back(
    admit: Admit, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest([long_ago(admit, "a", seconds=100_000)], [])
    uptime = redis_client.info("server")["uptime_in_seconds"]
    monkeypatch.setattr(overdue, "LOST_AFTER_SECONDS", uptime + 3600)
    assert end_overdue(redis_client) == 0


def test_an_admission_is_looked_at_once(admit: Admit, redis_client: redis.Redis) -> None:
    ingest([long_ago(admit, "a")], [])
    end_overdue(redis_client)
    Completion.objects.all().delete()
    assert end_overdue(redis_client) == 0
