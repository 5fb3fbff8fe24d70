"""What two do at once: one of them does it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from experiments.models import AuditEvent, Experiment, UseCase
from experiments.services import experiments as service
from experiments.services import ramps
from experiments.services.declarations import declare
from experiments.services.errors import WrongState
from tests.service_layer.conftest import make_draft

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_client")]


@pytest.fixture
def use_case(transactional_db: None, use_case: UseCase) -> UseCase:
    """The use case, seen by other connections."""
    return use_case


def at_once(*works: Callable[[], Any]) -> list[Any]:
    """What each returned, or the WrongState that it raised."""
    ready = threading.Barrier(len(works))

    def run(work: Callable[[], Any]) -> Any:
        try:
            ready.wait(10)
            return work()
        except WrongState as error:
            return error
        finally:
            connection.close()

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(run, works))


def test_of_two_experiments_that_want_the_same_buckets_one_starts(use_case: UseCase) -> None:
    drafts = [
        declare("ada", make_draft(use_case, name), {"layer": "prompts", "layer_range": [0, 5_000]})
        for name in ("One", "Two")
    ]
    results = at_once(*(lambda draft=draft: service.start("ada", draft) for draft in drafts))
    assert sum(isinstance(result, WrongState) for result in results) == 1
    assert Experiment.objects.filter(state="running").count() == 1


def test_of_two_that_advance_a_ramp_one_takes_the_step(use_case: UseCase, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [{"coverage": share, "hold_seconds": 60} for share in (0.1, 0.5, 1.0)]
    experiment = service.start("ada", declare("ada", make_draft(use_case), {"ramp": steps}))
    Experiment.objects.update(coverage_since=timezone.now() - timedelta(seconds=61))
    # Both have seen the same coverage before either changes it.
    both_saw = threading.Barrier(2)

    def well(row: Experiment) -> str:
        both_saw.wait(10)
        return ""

    monkeypatch.setattr(ramps, "_held", well)
    taken = at_once(*[lambda: ramps.advance(experiment.pk)] * 2)
    assert sorted(taken) == [False, True]
    assert Experiment.objects.get().coverage == 0.5
    assert AuditEvent.objects.filter(action="raise coverage").count() == 1
