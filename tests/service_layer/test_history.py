"""What requests went through while they were counted: late labels, corrections, and entering each exact test once."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence

import numpy as np
import pytest
from django.apps import apps
from django.db import connection
from django.db.migrations import RunSQL

from experiments.models import ArmMoments, CountedRequest, Experiment, Phase, ProcessState, UnitTotals, UseCase
from experiments.services import accumulators
from experiments.services import experiments as service
from experiments.services.counted_requests import COLUMNS, History
from experiments.services.labels import NewLabel, submit_labels
from experiments.services.ledger import ingest
from experiments.services.looks import look
from experiments.statistics.columns import REQUEST_COLUMNS, UNIT_COLUMNS, arm_aggregates
from experiments.statistics.guardrails import Guardrail, GuardrailMetric, to_json
from experiments.statistics.moments import UnitMoments
from tests.service_layer.conftest import NOON, Admit, answered, make_draft
from tests.service_layer.test_accumulators import LATER, count, moments

migration = importlib.import_module("experiments.migrations.0006_label_history")
NAMES = [f"r{i}" for i in range(20)]


@pytest.fixture
def exact(use_case: UseCase) -> Phase:
    """A phase whose units are requests, with a guardrail on empty answers."""
    draft = make_draft(use_case, unit="request")
    Experiment.objects.update(guardrails=to_json([Guardrail(GuardrailMetric.EMPTY, 0.02)]))
    phase = service.start("ada", draft).phase
    assert phase is not None
    return phase


def audited(phase: Phase) -> Phase:
    """The phase of an experiment that draws every request for the audit."""
    Experiment.objects.update(estimand_source="audit", audit_every=1)
    phase.refresh_from_db()
    return Phase.objects.get(pk=phase.pk)


def admitted(admit: Admit, phase: Phase, names: Sequence[str] = NAMES, **options: object) -> None:
    """Requests of either arm in turn."""
    ingest(
        [
            admit(n, phase=phase, variant=("full", "short")[i % 2], unit=f"u-{n}", admitted_at=NOON + i, **options)
            for i, n in enumerate(names)
        ],
        [],
    )


def entered(name: str = "em") -> int:
    """How many requests have entered an exact test."""
    row = ProcessState.objects.filter(name=name).first()
    return 0 if row is None else sum(row.state["counts"][::2]) + sum(row.state["pending"][::2])


def total(phase: Phase, name: str) -> int:
    return int(sum(moments(phase, key).total(name) for key in ("full", "short")))


def test_labels_that_come_after_their_request_was_counted_are_late(admit: Admit, exact: Phase) -> None:
    admitted(admit, exact)
    ingest([], [answered(name) for name in NAMES])
    submit_labels([NewLabel(name, "42") for name in NAMES[:5]])
    count(exact)
    submit_labels([NewLabel(name, "42") for name in NAMES[5:9]])
    count(exact)
    assert (total(exact, "labelled"), total(exact, "late")) == (9, 4)


def test_a_label_that_changed_what_was_counted_is_a_correction_until_it_changes_back(
    admit: Admit, exact: Phase
) -> None:
    admitted(admit, exact, reference="42")
    ingest([], [answered(name) for name in NAMES])
    count(exact)
    found = []
    for reference in ("43", "42"):
        submit_labels([NewLabel(NAMES[0], reference)])
        count(exact)
        found.append(total(exact, "corrected"))
    assert found == [1, 0]


def test_a_lost_audited_request_enters_the_exact_test_once_whatever_comes_after(admit: Admit, exact: Phase) -> None:
    phase = audited(exact)
    admitted(admit, phase, audited=True, audit_every=1)
    count(phase)
    assert entered() == len(NAMES)
    ingest([], [answered(name) for name in NAMES])
    count(phase)
    submit_labels([NewLabel(name, source="audit", correct=True) for name in NAMES])
    count(phase)
    assert entered() == len(NAMES)
    # It went in as wrong and is right: the estimate and the test disagree on all of them.
    assert (total(phase, "correct"), total(phase, "corrected")) == (len(NAMES), len(NAMES))


def test_labels_that_waited_when_accumulators_were_rebuilt_enter_the_exact_test(admit: Admit, exact: Phase) -> None:
    admitted(admit, exact)
    ingest([], [answered(name) for name in NAMES])
    count(exact)
    submit_labels([NewLabel(name, "42") for name in NAMES])
    accumulators.rebuild(exact.experiment, exact, LATER)
    count(exact)
    assert (total(exact, "labelled"), total(exact, "late"), entered()) == (len(NAMES),) * 3


def test_a_rebuild_lets_nothing_enter_a_test_again(admit: Admit, exact: Phase) -> None:
    admitted(admit, exact, reference="42")
    ingest([], [answered(name) for name in NAMES])
    count(exact)
    before = {row.name: row.state for row in ProcessState.objects.all()}
    accumulators.rebuild(exact.experiment, exact, LATER)
    assert {row.name: row.state for row in ProcessState.objects.all()} == before
    assert set(before) == {"em", "guardrail:empty"}


def test_label_rates_are_those_of_answered_requests(admit: Admit, exact: Phase) -> None:
    phase = audited(exact)
    admitted(admit, phase, audited=True, audit_every=1)
    failed = [dataclasses.replace(answered(name), outcome="error") for name in NAMES[:6:2]]
    ingest([], [*failed, *(answered(name) for name in NAMES if name not in NAMES[:6:2])])
    submit_labels([NewLabel(NAMES[6], source="audit", correct=True)])
    count(phase)
    arm = arm_aggregates("full", moments(phase))
    assert (arm.due, arm.labelled_completions, arm.due_and_labelled) == (10, 4, (7, 1))


def test_moments_from_before_gain_columns_of_zeros(phase: Phase) -> None:
    old_columns = tuple(name for name in UNIT_COLUMNS if name not in migration.NEW)
    totals = np.random.default_rng(4).integers(0, 50, (6, len(old_columns)))
    old = UnitMoments.from_totals(old_columns, totals)
    variant = phase.experiment.variants.get(key="full")
    row = ArmMoments.objects.create(phase=phase, variant=variant, moments=accumulators._encode(old))
    migration.widen_moments(apps, None)
    row.refresh_from_db()
    at = UNIT_COLUMNS.index(migration.NEW[0])
    widened = np.hstack([totals[:, :at], np.zeros((6, 4), dtype=np.int64), totals[:, at:]])
    assert accumulators._decode(row.moments) == UnitMoments.from_totals(UNIT_COLUMNS, widened)


def test_what_was_counted_before_the_history_is_known_to_have_entered(admit: Admit, exact: Phase) -> None:
    admitted(admit, exact)
    ingest([], [answered(name) for name in NAMES])
    submit_labels([NewLabel(name, "42") for name in NAMES[:5]])
    submit_labels([NewLabel(NAMES[5], "43"), NewLabel(NAMES[6], source="feedback", score=0.2)])
    count(exact)
    rows = {row.pk: row for row in CountedRequest.objects.all()}
    units = {row.pk: row.totals for row in UnitTotals.objects.all()}
    for row in rows.values():
        CountedRequest.objects.filter(pk=row.pk).update(values=_narrow(row.values, len(COLUMNS)), history=0)
    for row in UnitTotals.objects.all():
        UnitTotals.objects.filter(pk=row.pk).update(totals=_narrow(row.totals, len(UNIT_COLUMNS)))
    with connection.cursor() as cursor:
        for operation in migration.Migration.operations:
            if isinstance(operation, RunSQL):
                cursor.execute(operation.sql)
    assert {row.pk: row.history for row in CountedRequest.objects.all()} == {
        pk: row.history for pk, row in rows.items()
    }
    assert rows[NAMES[5]].history == History.COUNTED | History.LABELLED
    at = [REQUEST_COLUMNS.index(name) for name in migration.NEW]
    for row in UnitTotals.objects.all():
        assert [value for i, value in enumerate(row.totals) if i not in at] == _narrow(units[row.pk], len(UNIT_COLUMNS))
        assert [row.totals[i] for i in at] == [0, 0, 0, 0]


def _narrow(values: Sequence[int], width: int) -> list[int]:
    assert len(values) == width
    at = REQUEST_COLUMNS.index(migration.NEW[0])
    return [*values[:at], *values[at + 4 :]]


@pytest.mark.usefixtures("redis_client")
def test_a_loss_at_the_margin_is_not_shipped_once_labels_are_seen_to_come_late(admit: Admit, exact: Phase) -> None:
    """Wrong answers are labelled at once, right ones 1,000 later: the exact test excludes the loss for good."""
    rng, n, step = np.random.default_rng(2), 2_000, 500
    right = rng.random(n) < np.where(np.arange(n) % 2 == 1, 0.75, 0.80)
    due = np.arange(n) + np.where(right, 1_000, 0)
    decisions, p_values = [], []
    for start in range(0, n, step):
        numbers = range(start, start + step)
        admitted(admit, exact, [f"n{i}" for i in numbers])
        ingest([], [answered(f"n{i}", thinking_tokens=(100, 50)[i % 2] + i % 7) for i in numbers])
        now = np.flatnonzero((due >= start) & (due < start + step))
        submit_labels([NewLabel(f"n{i}", "42" if right[i] else "43") for i in now])
        stored = look(exact.experiment_id)
        assert stored is not None
        p_values.append(stored.data["comparisons"][0]["em"]["p_non_inferiority"])
        decisions.append(stored.data["verdict"]["decision"])
    assert max(p_values[2:]) < 0.02
    assert set(decisions[2:]) == {"keep_running"}
    assert [check["code"] for check in stored.data["health"]["checks"] if not check["passed"]] == ["late_labels"]
