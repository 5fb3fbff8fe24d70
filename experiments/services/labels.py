"""Labels: evidence in, exact match out, whichever of label and completion comes first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from django.db import transaction
from django.utils import timezone

from experiments.grading import MAX_REFERENCE_LENGTH, Grader, grader_by_name, normalise_answer
from experiments.models import Admission, Completion, Experiment, Label
from experiments.services import shadow
from experiments.services.errors import InvalidInput
from experiments.services.recounting import hold_grading_lock, mark_changed

# What each source says: a reference that is graded here, a judgement on correctness, or a prediction of it.
_REFERENCES = {Label.Source.REFERENCE, Label.Source.AUDIT}
_PREDICTIONS = {Label.Source.JUDGE, Label.Source.FEEDBACK}


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
class LabelReport:
    """What became of a batch of labels.

    Attributes:
        stored: labels stored or corrected.
        graded: how many of them need no more grading; the rest are graded when their completion is stored.
    """

    stored: int
    graded: int


@transaction.atomic
def submit_labels(labels: Sequence[NewLabel]) -> LabelReport:
    """Store labels that come after their request; a second one of a source corrects the first.

    Raises:
        InvalidInput: a value is missing or not allowed, a completion is unknown, or an audit label is for one that
            the audit did not draw; nothing is stored.
    """
    for number, label in enumerate(labels, 1):
        _check(f"labels[{number}]", label)
    latest = {(label.completion_id, label.source): label for label in labels}
    hold_grading_lock()
    graders = _graders([pk for pk, _ in latest])
    if unknown := [pk for pk, _ in latest if pk not in graders]:
        raise InvalidInput(
            f"completion_id {unknown[0]!r} is unknown ({len(unknown)} of {len(latest)} are); "
            "a completion can be labelled once its admission is stored, within a second of the request",
            "completion_id",
        )
    _check_drawn([pk for pk, source in latest if source == Label.Source.AUDIT])
    _store(latest.values(), graders)
    ids = [pk for pk, _ in latest]
    grade_stored(ids)
    shadow.grade_again(ids)
    mark_changed(ids)
    waiting = Label.objects.filter(admission_id__in=ids, correct=None, score=None).values_list("admission_id", "source")
    return LabelReport(len(latest), len(latest) - len(set(waiting) & set(latest)))


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


def _check_drawn(audited: Sequence[str]) -> None:
    """Raise InvalidInput where an audit label is for a request that chance did not choose: it would choose EM."""
    drawn = set(Admission.objects.filter(pk__in=audited, audited=True).values_list("pk", flat=True))
    if chosen := [pk for pk in audited if pk not in drawn]:
        raise InvalidInput(
            f"completion_id {chosen[0]!r} was not drawn for the audit ({len(chosen)} of {len(audited)} audit labels "
            "are for such requests); GET /api/v1/experiments/{id}/audit lists those that were",
            "completion_id",
        )


def audit_queue(experiment: Experiment, limit: int) -> list[str]:
    """Ids of the newest answered completions that the audit drew and nobody has labelled yet."""
    answered = Completion.objects.filter(outcome=Completion.Outcome.ANSWERED).values("id")
    labelled = Label.objects.filter(source=Label.Source.AUDIT).values("admission_id")
    drawn = Admission.objects.filter(phase__experiment=experiment, audited=True, id__in=answered)
    return list(drawn.exclude(id__in=labelled).order_by("-admitted_at").values_list("id", flat=True)[:limit])


def label_from_admissions(admission_ids: Sequence[str]) -> None:
    """Make the labels of references that came with their requests."""
    rows = Admission.objects.filter(pk__in=admission_ids, reference__isnull=False)
    references = {pk: reference for pk, reference in rows.values_list("pk", "reference") if reference is not None}
    if references:
        _store([NewLabel(pk, reference) for pk, reference in references.items()], _graders(list(references)))


def grade_stored(completion_ids: Sequence[str]) -> int:
    """Grade the ungraded labels of these completions, as far as the completions are stored.

    An error, a timeout or a cancellation is an outcome: it counts as incorrect.
    """
    labels = list(Label.objects.select_for_update().filter(admission_id__in=completion_ids, correct=None, score=None))
    ended = Completion.objects.in_bulk([label.admission_id for label in labels])
    graded = [label for label in labels if label.admission_id in ended]
    for label in graded:
        completion = ended[label.admission_id]
        label.correct = completion.outcome == Completion.Outcome.ANSWERED and grader_by_name(label.grader).grade(
            completion.answer, label.reference
        )
        label.updated_at = timezone.now()
    Label.objects.bulk_update(graded, ["correct", "updated_at"])
    return len(graded)


def _graders(admission_ids: Sequence[str]) -> dict[str, Grader]:
    """The grader of each known admission's model."""
    rows = Admission.objects.filter(pk__in=admission_ids).values_list("pk", "checkpoint__model__grader")
    return {pk: grader_by_name(name) for pk, name in rows}


def _store(labels: Iterable[NewLabel], graders: dict[str, Grader]) -> None:
    Label.objects.bulk_create(
        (
            Label(
                admission_id=label.completion_id,
                source=label.source,
                grader=graders[label.completion_id].name,
                grader_version=graders[label.completion_id].version,
                reference=label.reference or "",
                correct=label.correct,
                score=None if label.score is None else round(100 * label.score),
            )
            for label in labels
        ),
        update_conflicts=True,
        unique_fields=["admission", "source"],
        update_fields=["grader", "grader_version", "reference", "correct", "score", "updated_at"],
    )
