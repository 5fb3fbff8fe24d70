"""The lease of looks: held by one at a time, renewed while it counts, released by its holder alone."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from experiments.models import Experiment, Phase, Snapshot
from experiments.services import accumulators, looks, sketches
from experiments.services.ledger import ingest
from experiments.services.looks import look
from tests.service_layer.conftest import NOON, Admit, answered

pytestmark = pytest.mark.usefixtures("redis_client")


def lease() -> Any:
    return Experiment.objects.get().look_lease_until


def taken_over(*arguments: Any, **options: Any) -> None:
    """The lease of a look has run out, and another one has taken it."""
    Experiment.objects.update(look_lease_until=timezone.now() + timedelta(seconds=77))


def test_a_look_that_was_taken_over_leaves_the_others_lease(phase: Phase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accumulators, "count_until", taken_over)
    assert look(phase.experiment_id) is None
    assert lease() is not None
    assert look(phase.experiment_id) is None


def test_a_look_that_was_taken_over_stores_nothing(phase: Phase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accumulators, "count_until", taken_over)
    look(phase.experiment_id)
    assert not Snapshot.objects.exists()
    assert Experiment.objects.get().looked_at is None


def test_the_lease_is_renewed_with_each_chunk(admit: Admit, phase: Phase, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"r{i}" for i in range(12)]
    records = [admit(n, phase=phase, variant="full", unit=n, admitted_at=NOON + i) for i, n in enumerate(names)]
    ingest(records, [answered(name) for name in names])
    monkeypatch.setattr(accumulators, "CHUNK", 4)
    seen, update = [], sketches.update

    def watched(*arguments: Any) -> None:
        seen.append(lease())
        update(*arguments)

    monkeypatch.setattr(sketches, "update", watched)
    look(phase.experiment_id)
    assert len(seen) == 3
    assert seen == sorted(set(seen))
    assert lease() is None


def test_a_look_that_fails_is_no_look_and_may_be_tried_at_once(phase: Phase, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(looks, "analyse", lambda inputs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            look(phase.experiment_id)
    assert Experiment.objects.get().looked_at is None
    assert look(phase.experiment_id) is not None
    assert Experiment.objects.get().looked_at is not None
