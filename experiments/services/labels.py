"""Labels: evidence in, exact match out, whichever of label and completion comes first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import transaction
from django.utils import timezone

from experiments.grading import MAX_REFERENCE_LENGTH, Grader, normalise_answer
from experiments.models import Admission, Completion, Experiment, Label
from experiments.services import shadow
from experiments.services.errors import InvalidInput
from experiments.services.graders import grader_of, graders_of_admissions
from experiments.services.isolated_grading import grade_waiting
from experiments.services.judging import MAX_DETAIL_LENGTH
from experiments.services.private_rows import retentions
from experiments.services.recounting import hold_grading_lock, mark_changed
from experiments.services.sealing import is_sealed, unseal_text

# What each source says: a reference that is graded here, a judgement on correctness, or a prediction of it.
_REFERENCES = {Label.Source.REFERENCE, Label.Source.AUDIT}
_PREDICTIONS = {Label.Source.JUDGE, Label.Source.FEEDBACK}
# Who submits labels waits at most so long for graders that may take any time; a worker grades the rest.
_GRADE_WITHIN_SECONDS = 20.0
# The grader of an auditor's own judgement, which counts whatever the model's grader is.
PERSON = "person"


@dataclass(frozen=True, slots=True)
class NewLabel:
    """Evidence on the correctness of one completion.

    Attributes:
        completion_id: whose.
        reference: the right answer, of the sources reference and audit.
        source: reference, audit, judge or feedback.
        correct: an auditor's own judgement, in place of a reference.
        score: of judge and feedback, how likely the answer is right, in [0, 1].
    """

    completion_id: str
    reference: str | None = None
    source: str = Label.Source.REFERENCE
    correct: bool | None = None
    score: float | None = None


@dataclass(frozen=True, slots=True)
class FailedLabel:
    """A label that is stored but could not be graded: it counts as none.

    Attributes:
        completion_id: whose.
        source: of the label.
        failure: ``timeout``, ``reference`` or ``judge``.
        detail: the failure in words.
    """

    completion_id: str
    source: str
    failure: str
    detail: str


@dataclass(frozen=True, slots=True)
class LabelReport:
    """What became of a batch of labels.

    Attributes:
        stored: labels stored or corrected.
        graded: how many of them are graded or need no grading; of the rest those that did not fail are graded
            when their completion is stored, or by a worker within seconds.
        failed: those that could not be graded.
    """

    stored: int
    graded: int
    failed: tuple[FailedLabel, ...] = ()


def submit_labels(labels: Sequence[NewLabel], use_case_id: int | None = None) -> LabelReport:
    """Store labels that come after their request; a second one of a source corrects the first.

    Args:
        labels: what to store.
        use_case_id: completions of other use cases count as unknown; None: of none do.

    Raises:
        InvalidInput: a value is missing or not allowed, a completion is unknown, or an audit label is for one that
            the audit did not draw; nothing is stored.
    """
    latest = store_labels(labels, use_case_id)
    ids = [pk for pk, _ in latest]
    grade_waiting(ids, within=_GRADE_WITHIN_SECONDS)
    return _report(latest)


def store_labels(labels: Sequence[NewLabel], use_case_id: int | None = None) -> Mapping[tuple[str, str], NewLabel]:
    """As :func:`submit_labels`, but what needs an isolated grader is left to a worker.

    Returns:
        What was stored, by completion and source.
    """
    for number, label in enumerate(labels, 1):
        _check(f"labels[{number}]", label)
    latest = {(label.completion_id, label.source): label for label in labels}
    _submit(labels, latest, use_case_id)
    return latest


@transaction.atomic
def _submit(labels: Sequence[NewLabel], latest: Mapping[tuple[str, str], NewLabel], use_case_id: int | None) -> None:
    hold_grading_lock()
    graders = graders_of_admissions(_within([pk for pk, _ in latest], use_case_id))
    if unknown := [pk for pk, _ in latest if pk not in graders]:
        raise InvalidInput(
            f"completion_id {unknown[0]!r} is unknown ({len(unknown)} of {len(latest)} are); "
            "a completion can be labelled once its admission is stored, within a second of the request",
            "completion_id",
        )
    for number, label in enumerate(labels, 1):
        _check_gradable(f"labels[{number}]", label, graders[label.completion_id])
    _check_drawn([pk for pk, source in latest if source == Label.Source.AUDIT])
    _check_kept([label.completion_id for label in labels if label.reference is not None])
    _store(latest.values(), graders)
    ids = [pk for pk, _ in latest]
    grade_stored(ids)
    shadow.grade_again(ids)
    mark_changed(ids)


def _within(ids: Sequence[str], use_case_id: int | None) -> Sequence[str]:
    """Those of the completions that belong to the use case."""
    if use_case_id is None:
        return ids
    return list(Admission.objects.filter(pk__in=ids, use_case_id=use_case_id).values_list("pk", flat=True))


def _report(latest: Mapping[tuple[str, str], NewLabel]) -> LabelReport:
    ungraded = Label.objects.filter(admission_id__in=[pk for pk, _ in latest], correct=None, score=None)
    ours = [row for row in ungraded.order_by("admission_id", "source") if (row.admission_id, row.source) in latest]
    failed = [row for row in ours if row.failure]
    return LabelReport(
        len(latest),
        len(latest) - len(ours),
        tuple(FailedLabel(row.admission_id, row.source, row.failure, row.failure_detail) for row in failed),
    )


def _check(where: str, label: NewLabel) -> None:
    for field, text in (("completion_id", label.completion_id), ("reference", label.reference or "")):
        if "\x00" in text:
            raise InvalidInput(f"{where}.{field} must not hold the character NUL (U+0000)", field)
    if label.source in _PREDICTIONS:
        _check_prediction(where, label)
    elif label.source not in _REFERENCES:
        allowed = ", ".join(sorted(_REFERENCES | _PREDICTIONS))
        raise InvalidInput(f"{where}.source must be one of {allowed}, got {label.source!r}", "source")
    elif label.score is not None:
        raise InvalidInput(f"{where}.score goes with judge and feedback, not with {label.source}", "score")
    elif label.correct is not None:
        if label.source != Label.Source.AUDIT or label.reference is not None:
            raise InvalidInput(f"{where}.correct goes with source audit, in place of a reference", "correct")
    else:
        _check_reference(where, label.reference)


def _check_prediction(where: str, label: NewLabel) -> None:
    if label.reference is not None or label.correct is not None:
        raise InvalidInput(f"{where}: a label of source {label.source} has a score, no reference and no correct")
    if label.score is None or not 0 <= label.score <= 1:
        raise InvalidInput(f"{where}.score must be from 0 to 1, got {label.score!r}", "score")


def _check_reference(where: str, reference: str | None) -> None:
    if reference is None or not normalise_answer(reference):
        raise InvalidInput(f"{where}.reference must not be empty, got {reference!r}", "reference")
    if len(reference) > MAX_REFERENCE_LENGTH:
        raise InvalidInput(
            f"{where}.reference must have at most {MAX_REFERENCE_LENGTH} characters, got {len(reference)}", "reference"
        )


def _check_gradable(where: str, label: NewLabel, grader: Grader) -> None:
    """What a request's own reference is found to be only when it is stored is an error here."""
    if label.reference is None:
        return
    try:
        grader.check_reference(label.reference)
    except ValueError as error:
        raise InvalidInput(f"{where}.{error}", "reference") from error


def _check_drawn(audited: Sequence[str]) -> None:
    """Raise InvalidInput where an audit label is for a request that chance did not choose: it would choose EM."""
    drawn = set(Admission.objects.filter(pk__in=audited, audited=True).values_list("pk", flat=True))
    if chosen := [pk for pk in audited if pk not in drawn]:
        raise InvalidInput(
            f"completion_id {chosen[0]!r} was not drawn for the audit ({len(chosen)} of {len(audited)} audit labels "
            "are for such requests); GET /api/v1/experiments/{id}/audit lists those that were",
            "completion_id",
        )


def _check_kept(referenced: Sequence[str]) -> None:
    """Raise InvalidInput where there is no answer left that a reference could be compared with."""
    private = retentions(referenced)
    if gone := [pk for pk in referenced if pk in private]:
        raise InvalidInput(
            f"completion_id {gone[0]!r} keeps no answer that a reference could be compared with (retention "
            f"{private[gone[0]]}, {len(gone)} of {len(referenced)} do not); send the reference with the request as "
            "metadata.reference, or an auditor's own judgement as correct",
            "reference",
        )


def audit_queue(experiment: Experiment, limit: int) -> list[str]:
    """Ids of the newest answered completions that the audit drew and that have no label, or one not gradable."""
    answered = Completion.objects.filter(outcome=Completion.Outcome.ANSWERED).values("id")
    labelled = Label.objects.filter(source=Label.Source.AUDIT, failure="").values("admission_id")
    drawn = Admission.objects.filter(phase__experiment=experiment, audited=True, id__in=answered)
    return list(drawn.exclude(id__in=labelled).order_by("-admitted_at").values_list("id", flat=True)[:limit])


def label_from_admissions(admission_ids: Sequence[str]) -> None:
    """Make the labels of references that came with their requests."""
    rows = Admission.objects.filter(pk__in=admission_ids, reference__isnull=False)
    references = {pk: reference for pk, reference in rows.values_list("pk", "reference") if reference is not None}
    if references:
        _store(
            [NewLabel(pk, reference) for pk, reference in references.items()], graders_of_admissions(list(references))
        )


def grade_stored(completion_ids: Sequence[str]) -> int:
    """Grade the ungraded labels of these completions, as far as the completions are stored.

    An error, a timeout or a cancellation is an outcome: it counts as incorrect. What needs an isolated grader is
    left for :func:`experiments.services.isolated_grading.grade_waiting`.
    """
    waiting = Label.objects.select_for_update().filter(
        admission_id__in=completion_ids, correct=None, score=None, failure=""
    )
    labels = list(waiting)
    ended = Completion.objects.in_bulk([label.admission_id for label in labels])
    graded = [label for label in labels if label.admission_id in ended and _grade(label, ended[label.admission_id])]
    Label.objects.bulk_update(
        graded, ["correct", "failure", "failure_detail", "grader_version", "grading", "updated_at"]
    )
    return len(graded)


def _grade(label: Label, completion: Completion) -> bool:
    """Grade a label if that can be done here and now."""
    label.updated_at = timezone.now()
    if completion.outcome != Completion.Outcome.ANSWERED:
        label.correct = False
        return True
    grader = grader_of(label)
    if grader.isolated:
        return False
    # It may have been stored for an earlier version.
    label.grader_version, label.grading = grader.version, grader.identity
    try:
        label.correct = grader.grade(unseal_text(completion.answer), unseal_text(label.reference))
    except ValueError as error:
        # Words about a reference that is not kept are not kept either.
        detail = "" if is_sealed(label.reference) else str(error)[:MAX_DETAIL_LENGTH]
        label.failure, label.failure_detail = Label.Failure.REFERENCE, detail
    return True


def _store(labels: Iterable[NewLabel], graders: Mapping[str, Grader]) -> None:
    Label.objects.bulk_create(
        (
            Label(
                admission_id=label.completion_id,
                source=label.source,
                **_grading(label, graders[label.completion_id]),
                reference=label.reference or "",
                correct=label.correct,
                score=None if label.score is None else round(100 * label.score),
            )
            for label in labels
        ),
        update_conflicts=True,
        unique_fields=["admission", "source"],
        update_fields=[
            "grader",
            "grader_version",
            "grader_options",
            "grading",
            "reference",
            "correct",
            "failure",
            "failure_detail",
            "score",
            "updated_at",
        ],
    )


def _grading(label: NewLabel, grader: Grader) -> dict[str, Any]:
    if label.correct is not None:
        return {"grader": PERSON, "grader_version": 1, "grading": f"{PERSON}/1"}
    return {
        "grader": grader.name,
        "grader_version": grader.version,
        "grader_options": grader.options,
        "grading": grader.identity,
    }
