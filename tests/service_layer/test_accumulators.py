"""Counting requests into accumulators: whatever comes late, twice or corrected, a rebuild finds the same."""

from __future__ import annotations

import dataclasses
import threading
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from django.db import connections, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments.models import (
    Admission,
    ArmMoments,
    CountedRequest,
    Experiment,
    Label,
    Phase,
    ProcessState,
    Recount,
    UnitTotals,
)
from experiments.services import accumulators
from experiments.services.accumulators import ALL, SEGMENT
from experiments.services.labels import NewLabel, submit_labels
from experiments.services.ledger import ingest
from experiments.services.recounting import hold_grading_lock, mark_changed
from experiments.statistics import codec
from experiments.statistics.columns import UNIT_COLUMNS
from experiments.statistics.moments import UnitMoments
from experiments.statistics.quantiles import QuantileSketch
from tests.service_layer.conftest import NOON, Admit, answered, make_draft

VARIANTS = ("full", "short")
LATER = datetime.fromtimestamp(NOON + 3600, UTC)


def count(phase: Phase, until: float = 3600.0) -> None:
    cutoff = datetime.fromtimestamp(NOON + until, UTC)
    accumulators.count_until(phase.experiment, phase, cutoff, LATER)


def moments(phase: Phase, key: str = "full", cohort: str = ALL) -> UnitMoments:
    variant = phase.experiment.variants.get(key=key)
    return accumulators.load_moments(phase)[variant.pk, cohort]


def contents(phase: Phase) -> dict[str, Any]:
    """Everything that the accumulators hold of a phase, sketches apart."""
    rows = UnitTotals.objects.filter(phase=phase)
    return {
        "moments": accumulators.load_moments(phase),
        "totals": {(row.variant_id, row.cohort, row.unit_hash): tuple(row.totals) for row in rows},
        "counted": {row.id: tuple(row.values) for row in CountedRequest.objects.filter(phase=phase)},
    }


def test_each_request_is_counted_once_however_often_it_comes(admit: Admit, phase: Phase) -> None:
    record = admit("a", phase=phase, variant="full", unit="u")
    for _ in range(2):
        ingest([record], [answered("a", thinking_tokens=7)])
        count(phase)
    assert (moments(phase).total("completions"), moments(phase).total("thinking")) == (1, 7)


def test_a_unit_with_several_requests_stays_one_observation(admit: Admit, phase: Phase) -> None:
    records = [admit(name, phase=phase, variant="full", unit="u", admitted_at=NOON + i) for i, name in enumerate("abc")]
    ingest(records, [answered(name, thinking_tokens=10) for name in "abc"])
    count(phase, 1.5)
    count(phase)
    aggregate = moments(phase).aggregate("completions", "thinking")
    assert (aggregate.units, aggregate.sum_n, aggregate.sum_s, aggregate.sum_s2) == (1, 3, 30, 900)


def test_a_late_label_changes_what_was_counted(admit: Admit, phase: Phase) -> None:
    ingest([admit("a", phase=phase, variant="full", unit="u")], [answered("a")])
    count(phase)
    assert moments(phase).total("labelled") == 0
    submit_labels([NewLabel("a", "42")])
    count(phase)
    assert (moments(phase).total("labelled"), moments(phase).total("correct")) == (1, 1)
    submit_labels([NewLabel("a", "43")])
    count(phase)
    assert (moments(phase).total("labelled"), moments(phase).total("correct")) == (1, 0)


def test_a_request_that_has_not_ended_waits_even_if_its_admission_came_late(admit: Admit, phase: Phase) -> None:
    count(phase, 10)
    ingest([admit("a", phase=phase, variant="full", unit="u", deadline_at=NOON + 7200)], [])
    count(phase)
    assert not CountedRequest.objects.exists()
    assert Recount.objects.count() == 1
    ingest([], [answered("a")])
    count(phase)
    assert moments(phase).total("answered") == 1
    assert not Recount.objects.exists()


def test_a_lost_request_counts_as_a_timeout_until_its_completion_comes_after_all(admit: Admit, phase: Phase) -> None:
    ingest([admit("a", phase=phase, variant="full", unit="u", reference="42")], [])
    count(phase)
    assert (moments(phase).total("timeout"), moments(phase).total("correct")) == (1, 0)
    ingest([], [answered("a")])
    count(phase)
    assert (moments(phase).total("timeout"), moments(phase).total("answered")) == (0, 1)
    assert moments(phase).total("correct") == 1


def test_segments_are_counted_beside_the_whole(admit: Admit, phase: Phase) -> None:
    records = [
        admit("a", phase=phase, variant="full", unit="u", segment="batch"),
        admit("b", phase=phase, variant="full", unit="u"),
    ]
    ingest(records, [answered("a"), answered("b")])
    count(phase)
    assert moments(phase).total("completions") == 2
    assert moments(phase, cohort=SEGMENT + "batch").total("completions") == 1


def test_the_covariate_is_the_prompt_of_a_units_first_request(admit: Admit, phase: Phase) -> None:
    ingest([admit("a", phase=phase, variant="full", unit="u", prompt_characters=5)], [])
    ingest([admit("b", phase=phase, variant="full", unit="u", prompt_characters=9, admitted_at=NOON + 1)], [])
    count(phase)
    assert moments(phase).total("prompt_characters") == 5


def test_an_unlabelled_audit_is_due_and_one_without_an_answer_is_incorrect(admit: Admit, phase: Phase) -> None:
    Experiment.objects.update(estimand_source="audit", audit_every=2)
    phase.refresh_from_db()
    options = {"phase": phase, "variant": "full", "audit_every": 2}
    records = [
        admit("a", unit="u", audited=True, **options),
        admit("b", unit="v", audited=True, **options),
        admit("c", unit="w", audited=False, **options),
    ]
    ingest(records, [answered("a"), dataclasses.replace(answered("b"), outcome="error"), answered("c")])
    count(phase)
    assert [moments(phase).total(name) for name in ("due", "labelled", "correct")] == [2, 1, 0]
    submit_labels([NewLabel("a", source="audit", correct=True)])
    count(phase)
    assert [moments(phase).total(name) for name in ("due", "labelled", "correct")] == [2, 2, 1]


def test_the_estimate_of_an_audit_is_the_one_weighted_by_the_recorded_probabilities(admit: Admit, phase: Phase) -> None:
    """Hajek's estimator (Comment on Basu, 1971): sum of y / p over sum of 1 / p."""
    Experiment.objects.update(estimand_source="audit", audit_every=3)
    phase.refresh_from_db()
    records = [
        admit(f"r{n}", phase=phase, variant="full", unit=f"u{n % 5}", audited=n % 3 == 0, audit_every=3)
        for n in range(30)
    ]
    ingest(records, [answered(record.id) for record in records])
    drawn = [record.id for record in records if record.audited]
    submit_labels([NewLabel(name, source="audit", correct=n % 4 > 0) for n, name in enumerate(drawn)])
    count(phase)
    labels = Label.objects.filter(admission__audited=True)
    weights = [(label.admission.audit_every, label.correct) for label in labels]
    weighted = sum(weight * correct for weight, correct in weights) / sum(weight for weight, _ in weights)
    found = moments(phase)
    assert found.total("correct") / found.total("labelled") == pytest.approx(weighted)
    assert 0 < weighted < 1


def test_a_stored_audit_label_of_a_request_that_was_not_drawn_counts_for_nothing(admit: Admit, phase: Phase) -> None:
    Experiment.objects.update(estimand_source="audit", audit_every=2)
    phase.refresh_from_db()
    ingest([admit("a", phase=phase, variant="full", unit="u")], [answered("a")])
    Label.objects.create(admission_id="a", source="audit", grader="exact_match", grader_version=1, correct=True)
    count(phase)
    assert [moments(phase).total(name) for name in ("due", "labelled", "correct")] == [0, 0, 0]


def test_counting_in_chunks_finds_the_same(admit: Admit, phase: Phase, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [
        admit(
            f"r{i}", phase=phase, variant=("full", "short")[i % 2], unit=f"u{i % 5}-{i % 2}", admitted_at=NOON + i // 3
        )
        for i in range(20)
    ]
    ingest(records, [answered(f"r{i}", thinking_tokens=i) for i in range(20)])
    count(phase)
    whole = contents(phase)
    for table in (CountedRequest, UnitTotals, ArmMoments):
        table.objects.all().delete()
    Phase.objects.update(counted_until=None)
    monkeypatch.setattr(accumulators, "CHUNK", 4)
    count(phase)
    assert contents(phase) == whole


_EVENT = st.tuples(
    st.sampled_from(["admit", "end", "label", "feedback", "count"]),
    st.integers(0, 7),
    st.integers(0, 300),
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(events=st.lists(_EVENT, max_size=40), source=st.sampled_from(["reference", "audit"]))
def test_what_was_counted_step_by_step_equals_a_rebuild(
    admit: Admit, phase: Phase, events: list[Any], source: str
) -> None:
    """Duplicates, late labels, corrections and late endings, in any order."""
    with transaction.atomic():
        Experiment.objects.update(estimand_source=source, audit_every=1)
        phase = Phase.objects.get(pk=phase.pk)
        admitted: set[int] = set()
        for kind, who, value in events:
            _do(kind, who, value, admit, phase, admitted, source)
        count(phase)
        step_by_step, sketch = contents(phase), _sketches(phase)
        accumulators.rebuild(phase.experiment, phase, LATER)
        assert contents(phase) == step_by_step
        # A sketch can't take back: a lost request that ended after all stays in it as it was counted.
        for key, rebuilt in _sketches(phase).items():
            assert rebuilt.n == sketch[key].n
        totals = [row.totals for row in UnitTotals.objects.filter(phase=phase, cohort=ALL)]
        together = sum(
            (found for (_, cohort), found in accumulators.load_moments(phase).items() if cohort == ALL),
            UnitMoments.empty(UNIT_COLUMNS),
        )
        assert together == UnitMoments.from_totals(
            UNIT_COLUMNS, np.array(totals, dtype=np.int64).reshape(-1, len(UNIT_COLUMNS))
        )
        transaction.set_rollback(True)


def test_sketches_rebuilt_and_counted_step_by_step_agree_within_their_rank_error(admit: Admit, phase: Phase) -> None:
    """Each of the two may be off by its own rank error, and both have left exactness behind."""
    tokens = np.random.default_rng(5).lognormal(6, 1, 2_000).astype(int)
    names = [f"r{i}" for i in range(tokens.size)]
    ingest(
        [admit(name, phase=phase, variant="full", unit=name, admitted_at=NOON + i) for i, name in enumerate(names)],
        [answered(name, thinking_tokens=spent) for name, spent in zip(names, tokens.tolist(), strict=True)],
    )
    for step in range(1, 6):
        count(phase, step * 400)
    (stepwise,) = _sketches(phase).values()
    accumulators.rebuild(phase.experiment, phase, LATER)
    (rebuilt,) = _sketches(phase).values()
    assert (stepwise.n, rebuilt.n) == (tokens.size, tokens.size)
    assert stepwise.rank_error > 0
    for q in (0.01, 0.5, 0.9, 0.99):
        for sketch in (stepwise, rebuilt):
            assert abs(np.mean(tokens <= sketch.quantile(q)) - q) <= sketch.rank_error + 1 / tokens.size


def _do(kind: str, who: int, value: int, admit: Admit, phase: Phase, admitted: set[int], source: str) -> None:
    name = f"r{who}"
    if kind == "admit":
        segment = ("", "batch", "realtime")[who % 3]
        unit, variant = f"u{who % 4}", VARIANTS[who % 4 // 2]
        drawn = source == "audit" and who % 3 > 0
        options = {"segment": segment, "admitted_at": NOON + who, "audited": drawn, "reference": ("42", None)[who % 2]}
        ingest([admit(name, phase=phase, variant=variant, unit=unit, **options)], [])
        admitted.add(who)
    elif kind == "end":
        ingest([], [answered(name, str(value % 2), thinking_tokens=value)])
    elif kind == "count":
        count(phase, value / 30)
    elif who in admitted and kind == "feedback":
        submit_labels([NewLabel(name, source="feedback", score=value / 300)])
    elif who in admitted and (source == "reference" or who % 3 > 0):
        submit_labels([NewLabel(name, str(value % 2), source)])


def _sketches(phase: Phase) -> dict[int, QuantileSketch]:
    rows = ArmMoments.objects.filter(phase=phase, cohort=ALL)
    return {row.variant_id: codec.decode(QuantileSketch, row.sketches["decoded_tokens"]) for row in rows}


def test_exact_tests_go_on_from_look_to_look(use_case: Any, admit: Admit) -> None:
    from experiments.services import experiments as service

    experiment = service.start("ada", make_draft(use_case, unit="request"))
    phase = experiment.phase
    assert phase is not None
    records = [
        admit(
            f"r{i}", phase=phase, variant=("full", "short")[i % 2], unit=f"u{i}", reference="42", admitted_at=NOON + i
        )
        for i in range(60)
    ]
    ingest(records, [answered(f"r{i}", "42" if i % 6 else "43") for i in range(60)])
    count(phase, 25)
    count(phase)
    stepwise = ProcessState.objects.get(name="em").state
    assert sum(stepwise["counts"][::2]) + sum(stepwise["pending"][::2]) == 60
    ProcessState.objects.all().delete()
    accumulators.rebuild(experiment, phase, LATER)
    assert not ProcessState.objects.exists()
    for table in (CountedRequest, UnitTotals, ArmMoments):
        table.objects.all().delete()
    Phase.objects.update(counted_until=None)
    count(phase)
    assert ProcessState.objects.get(name="em").state == stepwise


@pytest.mark.django_db(transaction=True)
def test_a_batch_that_is_stored_while_its_neighbours_are_counted_is_counted_next_time(
    admit: Admit, phase: Phase
) -> None:
    """The batch has stored its admissions and comes to the grading lock when counting has passed them by."""
    failures: list[BaseException] = []

    def count_elsewhere() -> None:
        try:
            count(phase)
        except BaseException as error:
            failures.append(error)
        finally:
            connections.close_all()

    with transaction.atomic():
        Admission.objects.create(
            id="a",
            use_case=phase.experiment.use_case,
            checkpoint=phase.experiment.use_case.checkpoint,
            phase=phase,
            variant=phase.experiment.variants.get(key="full"),
            unit_hash="u",
            policy={},
            policy_version="v1",
            admitted_at=datetime.fromtimestamp(NOON, UTC),
            deadline_at=datetime.fromtimestamp(NOON + 60, UTC),
        )
        other = threading.Thread(target=count_elsewhere)
        other.start()
        other.join(10)
        assert not other.is_alive()
        hold_grading_lock()
        mark_changed(["a"])
    assert failures == []
    count(phase)
    assert moments(phase).total("timeout") == 1
