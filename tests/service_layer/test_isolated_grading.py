"""Grading by processes that can be killed: outside transactions, and visible where it failed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import connection

from experiments.grading import ExactMatch, MathVerify, grader_from_spec
from experiments.models import Completion, Experiment, Label, ModelProfile, Phase, ShadowRun
from experiments.services import accumulators, isolated_grading
from experiments.services.errors import InvalidInput
from experiments.services.isolated_grading import grade_all_waiting, grade_waiting
from experiments.services.judging import Judgement, JudgePool, Task, judges
from experiments.services.labels import FailedLabel, LabelReport, NewLabel, audit_queue, submit_labels
from experiments.services.ledger import ingest
from experiments.wire import CompletionRecord, ShadowRecord
from tests.service_layer.conftest import NOON, Admit, answered

HUGE = "9^{9^{9^{9}}}"


@pytest.fixture(autouse=True)
def ended_judges() -> Iterator[None]:
    """No process outlives its test."""
    yield
    judges().close()


@pytest.fixture
def mathematics(model: ModelProfile) -> ModelProfile:
    """The model, graded by math-verify."""
    model.grader = "math_verify"
    model.save()
    return model


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second for each judgement."""
    monkeypatch.setattr(MathVerify, "timeout_seconds", 0.5)


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[Task]:
    """What is given to the judges, who find everything correct and start no process."""
    tasks: list[Task] = []

    class Lenient(JudgePool):
        def judge(self, given: Any, *, within: float | None = None) -> list[Judgement | None]:
            tasks.extend(given)
            return [Judgement(True) for _ in given]

    pool = Lenient(1)
    monkeypatch.setattr(isolated_grading, "judges", lambda: pool)
    return tasks


def test_a_reference_after_the_completion_is_judged_at_once(admit: Admit, mathematics: ModelProfile) -> None:
    ingest([admit("a"), admit("b")], [answered("a", "0.5"), answered("b", "0.4")])
    report = submit_labels([NewLabel("a", r"\frac{1}{2}"), NewLabel("b", r"\frac{1}{2}")])
    assert report == LabelReport(stored=2, graded=2)
    assert dict(Label.objects.values_list("admission_id", "correct")) == {"a": True, "b": False}


def test_a_grader_that_times_out_says_so_and_grades_the_others(
    admit: Admit, mathematics: ModelProfile, short: None
) -> None:
    ingest([admit("a"), admit("b")], [answered("a", "0.5"), answered("b", HUGE)])
    report = submit_labels([NewLabel("a", "1/2"), NewLabel("b", "1")])
    said = "math_verify timed out after 0.5 seconds"
    assert report == LabelReport(2, 1, (FailedLabel("b", "reference", "timeout", said),))
    label = Label.objects.get(admission="b")
    assert (label.correct, label.failure, label.failure_detail) == (None, "timeout", said)


def test_what_timed_out_is_not_judged_again_by_itself(admit: Admit, mathematics: ModelProfile, short: None) -> None:
    ingest([admit("a")], [answered("a", HUGE)])
    submit_labels([NewLabel("a", "1")])
    assert grade_waiting(within=60) == 0


def test_a_label_that_timed_out_counts_as_none(
    admit: Admit, model: ModelProfile, draft: Experiment, judged: list[Task]
) -> None:
    phase = _started(draft, model, "math_verify")
    record = admit("a", phase=phase, variant="short", unit="0f", reference="1")
    ingest([record], [answered("a", "1")])
    Label.objects.update(failure="timeout")
    assert _counted(phase) == {"completions": 1, "labelled": 0, "correct": 0}


def test_a_reference_with_the_request_is_left_to_the_worker(
    admit: Admit, mathematics: ModelProfile, judged: list[Task]
) -> None:
    ingest([admit("a", reference="1/2")], [answered("a", "0.5")])
    assert (Label.objects.get().correct, judged) == (None, [])
    assert grade_all_waiting(within=60) == 1
    assert Label.objects.get().correct is True
    assert judged == [Task(MathVerify(), "0.5", "1/2")]


def test_what_is_not_completed_waits(admit: Admit, mathematics: ModelProfile, judged: list[Task]) -> None:
    ingest([admit("a")], [])
    assert submit_labels([NewLabel("a", "1")]) == LabelReport(stored=1, graded=0)
    assert (grade_waiting(within=60), judged) == (0, [])


def test_what_was_not_answered_is_incorrect_without_a_judge(
    admit: Admit, mathematics: ModelProfile, judged: list[Task]
) -> None:
    ingest([admit("a", reference="1")], [CompletionRecord("a", "error", NOON)])
    assert (Label.objects.get().correct, judged) == (False, [])


def test_other_graders_do_not_wait(admit: Admit, judged: list[Task]) -> None:
    ingest([admit("a", reference="42")], [answered("a")])
    assert (Label.objects.get().correct, judged) == (True, [])


def test_more_than_a_batch_is_graded(
    admit: Admit, mathematics: ModelProfile, judged: list[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolated_grading, "BATCH", 2)
    names = [f"c{number}" for number in range(5)]
    ingest([admit(name, reference="1") for name in names], [answered(name) for name in names])
    assert grade_waiting(within=60) == 5
    assert set(Label.objects.values_list("correct", flat=True)) == {True}


def test_no_judgement_is_begun_when_the_time_is_up(admit: Admit, mathematics: ModelProfile, judged: list[Task]) -> None:
    ingest([admit("a", reference="1")], [answered("a")])
    assert (grade_waiting(within=0), judged) == (0, [])


def test_judging_holds_no_grading_lock(
    admit: Admit, mathematics: ModelProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger writer takes it for each batch: it must not wait for mathematics."""
    ingest([admit("a", reference="1")], [answered("a")])
    order: list[str] = []

    class Watching(JudgePool):
        def judge(self, given: Any, *, within: float | None = None) -> list[Judgement | None]:
            order.append("judge")
            return [Judgement(True) for _ in given]

    pool = Watching(1)
    monkeypatch.setattr(isolated_grading, "judges", lambda: pool)
    hold = isolated_grading.hold_grading_lock
    monkeypatch.setattr(isolated_grading, "hold_grading_lock", lambda: (order.append("lock"), hold()))
    grade_waiting(within=60)
    assert order == ["judge", "lock"]


def test_a_judgement_of_a_reference_that_was_corrected_meanwhile_is_dropped(
    admit: Admit, mathematics: ModelProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest([admit("a", reference="1")], [answered("a")])

    class Slow(JudgePool):
        def judge(self, given: Any, *, within: float | None = None) -> list[Judgement | None]:
            Label.objects.update(reference="2")
            return [Judgement(True) for _ in given]

    pool = Slow(1)
    monkeypatch.setattr(isolated_grading, "judges", lambda: pool)
    assert grade_waiting(within=60) == 0
    assert Label.objects.get().correct is None


def test_only_one_worker_grades_all(admit: Admit, mathematics: ModelProfile, judged: list[Task]) -> None:
    ingest([admit("a", reference="1")], [answered("a")])
    other = connection.copy()
    try:
        with other.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", [isolated_grading._ONE_AT_A_TIME])
            assert grade_all_waiting(within=60) is None
            cursor.execute("SELECT pg_advisory_unlock(%s)", [isolated_grading._ONE_AT_A_TIME])
    finally:
        other.close()
    assert grade_all_waiting(within=60) == 1
    assert grade_all_waiting(within=60) == 0  # the lock was given back


def test_an_audit_that_could_not_be_graded_is_asked_for_again(admit: Admit, running: Experiment, phase: Phase) -> None:
    ingest([admit("a", phase=phase, variant="full", unit="0f", audit_every=1, audited=True)], [answered("a")])
    submit_labels([NewLabel("a", "42", source="audit")])
    assert audit_queue(running, 10) == []
    Label.objects.update(correct=None, failure="timeout")
    assert audit_queue(running, 10) == ["a"]


def test_a_second_reference_replaces_one_that_timed_out(admit: Admit) -> None:
    ingest([admit("a", reference="42")], [answered("a")])
    Label.objects.update(correct=None, failure="timeout", failure_detail="slow")
    submit_labels([NewLabel("a", "42")])
    label = Label.objects.get()
    assert (label.correct, label.failure, label.failure_detail) == (True, "", "")


def test_a_reference_that_its_grader_cannot_use_is_refused(admit: Admit, model: ModelProfile) -> None:
    _grade_by(model, "numeric")
    ingest([admit("a")], [answered("a")])
    with pytest.raises(InvalidInput, match=r"labels\[1\].reference must be a number, got 'many'") as caught:
        submit_labels([NewLabel("a", "many")])
    assert caught.value.field == "reference"
    assert not Label.objects.exists()


def test_one_that_came_with_its_request_says_so_and_holds_up_nothing(admit: Admit, model: ModelProfile) -> None:
    _grade_by(model, "numeric")
    ingest([admit("a", reference="many"), admit("b", reference="42")], [answered("a"), answered("b")])
    found = {label.admission_id: (label.correct, label.failure) for label in Label.objects.all()}
    assert found == {"a": (None, "reference"), "b": (True, "")}


def test_a_label_keeps_the_identity_of_its_grader(admit: Admit, model: ModelProfile) -> None:
    _grade_by(model, "plain", ignore_case=True)
    ingest([admit("a", reference="X")], [answered("a", "x")])
    label = Label.objects.get()
    grader = grader_from_spec("plain", {"ignore_case": True})
    assert (label.correct, label.grader, label.grader_version) == (True, "plain", 1)
    assert (label.grader_options, label.grading) == (grader.options, grader.identity)


def test_a_label_is_graded_by_the_grader_it_was_stored_for(admit: Admit, model: ModelProfile) -> None:
    _grade_by(model, "plain", ignore_case=True)
    ingest([admit("a", reference="X")], [])
    _grade_by(model, "exact_match")
    ingest([], [answered("a", "x")])
    assert Label.objects.get().grader == "plain"


def test_labels_of_another_grading_do_not_count(
    admit: Admit, model: ModelProfile, draft: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    phase = _started(draft, model, "exact_match")
    monkeypatch.setattr(ExactMatch, "version", 2)
    ingest([admit("a", phase=phase, variant="short", unit="0f", reference="42")], [answered("a")])
    assert Label.objects.get().grading == "exact_match/2"
    assert _counted(phase) == {"completions": 1, "labelled": 0, "correct": 0}


def test_an_auditors_own_judgement_counts_whatever_the_grader_is(
    admit: Admit, model: ModelProfile, draft: Experiment
) -> None:
    draft.estimand_source, draft.audit_every = "audit", 1
    draft.save()
    phase = _started(draft, model, "numeric")
    ingest([admit("a", phase=phase, variant="short", unit="0f", audited=True)], [answered("a")])
    submit_labels([NewLabel("a", source="audit", correct=True)])
    assert Label.objects.get().grader == "person"
    assert _counted(phase) == {"completions": 1, "labelled": 1, "correct": 1}


def test_a_shadow_run_is_judged_with_its_request(
    admit: Admit, model: ModelProfile, draft: Experiment, judged: list[Task]
) -> None:
    phase = _started(draft, model, "math_verify")
    ingest([admit("a", phase=phase, variant="short", unit="0f", reference="1/2")], [answered("a", "0.4")])
    _queued("a", phase)
    ingest([], [], [ShadowRecord("s", NOON + 2, answer="0.5")])
    run = ShadowRun.objects.get()
    assert (run.correct, run.awaits_grading) == (None, True)
    assert grade_waiting(within=60) == 2
    run.refresh_from_db()
    assert (run.correct, run.awaits_grading) == (True, False)
    assert judged == [Task(MathVerify(), "0.4", "1/2"), Task(MathVerify(), "0.5", "1/2")]


def _grade_by(model: ModelProfile, name: str, **options: object) -> None:
    model.grader, model.grader_options = name, grader_from_spec(name, options).options
    model.save()


def _started(draft: Experiment, model: ModelProfile, grader: str) -> Phase:
    from experiments.services.experiments import start

    _grade_by(model, grader)
    phase = start("ada", draft).phase
    assert phase is not None
    return phase


def _queued(admission: str, phase: Phase) -> None:
    ShadowRun.objects.create(
        id="s",
        admission_id=admission,
        treatment=phase.experiment.variants.get(key="short"),
        kind="continue",
        queued_at=datetime.fromtimestamp(NOON, UTC),
    )


def _counted(phase: Phase) -> dict[str, int]:
    until = datetime.fromtimestamp(NOON + 1000, UTC)
    assert Completion.objects.exists()
    accumulators.count_until(phase.experiment, phase, until, until)
    variant = phase.experiment.variants.get(key="short")
    moments = accumulators.load_moments(phase)[variant.pk, accumulators.ALL]
    sums = dict(zip(moments.columns, moments.sums, strict=True))
    return {name: sums[name] for name in ("completions", "labelled", "correct")}
