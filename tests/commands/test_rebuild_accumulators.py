"""manage.py rebuild_accumulators."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest
from django.core.management import CommandError, call_command

from experiments.models import ArmMoments, Checkpoint, ModelProfile, UseCase
from experiments.services import experiments as service
from experiments.services.accumulators import count_until
from experiments.services.ledger import ingest
from experiments.wire import AdmissionRecord
from tests.service_layer.conftest import FULL, NOON, answered, make_draft


def test_it_says_whether_anything_changed(db: None) -> None:
    model = ModelProfile.objects.create(name="tiny", max_context_tokens=512)
    checkpoint = Checkpoint.objects.create(model=model, name="last", path="/nowhere")
    use_case = UseCase.objects.create(slug="a", name="A", checkpoint=checkpoint, policy=FULL)
    experiment = service.start("ada", make_draft(use_case))
    phase = experiment.phase
    assert phase is not None
    variant = experiment.variants.get(key="full")
    admission = AdmissionRecord(
        "a", use_case.pk, checkpoint.pk, phase.pk, variant.pk, "u", FULL, "v1", None, NOON, NOON + 60
    )
    ingest([admission], [answered("a", thinking_tokens=5)])
    later = datetime.fromtimestamp(NOON + 3600, UTC)
    count_until(experiment, phase, later, later)
    assert "nothing changed" in run(experiment.pk)
    row = ArmMoments.objects.get()
    row.moments["sums"][0] += 1
    row.save()
    assert "something changed" in run(experiment.pk)
    assert "nothing changed" in run(experiment.pk)


def run(pk: int) -> str:
    out = io.StringIO()
    call_command("rebuild_accumulators", str(pk), stdout=out)
    return out.getvalue()


def test_an_experiment_that_never_started_has_nothing_to_rebuild(db: None) -> None:
    with pytest.raises(CommandError, match="experiment must be one that was started, got 7"):
        call_command("rebuild_accumulators", "7")
