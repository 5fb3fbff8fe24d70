"""Labels: references in, exact match out, whichever of label and completion comes first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from django.db import connection, transaction
from django.utils import timezone

from experiments.grading import MAX_REFERENCE_LENGTH, Grader, grader_by_name, normalise_answer
from experiments.models import Admission, Completion, Label
from experiments.services.errors import InvalidInput

_GRADING_LOCK = 0x63757274  # any number of our own


@dataclass(frozen=True, slots=True)
class ReferenceLabel:
    """A reference answer for one completion."""

    completion_id: str
    reference: str


@dataclass(frozen=True, slots=True)
class LabelReport:
    """What became of a batch of labels.

    Attributes:
        stored: labels stored or corrected.
        graded: how many of them are graded already; the rest are when their completion is stored.
    """

    stored: int
    graded: int


@transaction.atomic
def submit_references(labels: Sequence[ReferenceLabel]) -> LabelReport:
    """Store references that come after their request; a second one for a completion corrects the first.

    Raises:
        InvalidInput: an empty reference or an unknown completion; nothing is stored.
    """
    for number, label in enumerate(labels, 1):
        for field, text in (("completion_id", label.completion_id), ("reference", label.reference)):
            if "\x00" in text:
                raise InvalidInput(f"labels[{number}].{field} must not hold the character NUL (U+0000)", field)
        if not normalise_answer(label.reference):
            raise InvalidInput(f"labels[{number}].reference must not be empty, got {label.reference!r}", "reference")
        if len(label.reference) > MAX_REFERENCE_LENGTH:
            raise InvalidInput(
                f"labels[{number}].reference must have at most {MAX_REFERENCE_LENGTH} characters, "
                f"got {len(label.reference)}",
                "reference",
            )
    latest = {label.completion_id: label.reference for label in labels}
    hold_grading_lock()
    graders = _graders(list(latest))
    if unknown := [i for i in latest if i not in graders]:
        raise InvalidInput(
            f"completion_id {unknown[0]!r} is unknown ({len(unknown)} of {len(latest)} are); "
            "a completion can be labelled once its admission is stored, within a second of the request",
            "completion_id",
        )
    _store(latest, graders)
    return LabelReport(len(latest), grade_stored(list(latest)))


def hold_grading_lock() -> None:
    """Wait until no other transaction stores labels or completions; held until this one ends.

    Otherwise a label and its completion, stored at the same time, would not see each other, and the label
    would stay ungraded. Take it before labels are stored, and read completions after.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_GRADING_LOCK])


def label_from_admissions(admission_ids: Sequence[str]) -> None:
    """Make the labels of references that came with their requests."""
    rows = Admission.objects.filter(pk__in=admission_ids, reference__isnull=False)
    references = {pk: reference for pk, reference in rows.values_list("pk", "reference") if reference is not None}
    if references:
        _store(references, _graders(list(references)))


def grade_stored(completion_ids: Sequence[str]) -> int:
    """Grade the ungraded labels of these completions, as far as the completions are stored.

    An error, a timeout or a cancellation is an outcome: it counts as incorrect.
    """
    labels = list(Label.objects.select_for_update().filter(admission_id__in=completion_ids, correct=None))
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


def _store(references: dict[str, str], graders: dict[str, Grader]) -> None:
    Label.objects.bulk_create(
        (
            Label(
                admission_id=pk,
                source=Label.Source.REFERENCE,
                grader=graders[pk].name,
                grader_version=graders[pk].version,
                reference=reference,
            )
            for pk, reference in references.items()
        ),
        update_conflicts=True,
        unique_fields=["admission", "source"],
        update_fields=["grader", "grader_version", "reference", "correct", "updated_at"],
    )
