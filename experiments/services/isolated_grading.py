"""Grading that may take any time: after the labels are stored, outside their transaction.

Labels and shadow runs whose grader is isolated wait in the tables. They are read without a lock, judged in the
pool of processes, and written back where they still are as they were read.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from django.db import connection, transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from experiments.models import Completion, Label, ShadowRun
from experiments.services import shadow
from experiments.services.graders import grader_of
from experiments.services.judging import Judgement, Task, judges
from experiments.services.private_rows import settle
from experiments.services.recounting import hold_grading_lock, mark_changed
from experiments.services.sealing import is_sealed, unseal_text

BATCH = 100
_ONE_AT_A_TIME = 0x6D617468  # any number of our own
_WAITING = Q(correct=None, score=None, failure="")


def grade_waiting(completion_ids: Sequence[str] | None = None, *, within: float) -> int:
    """Grade what waits for an isolated grader; how many labels and shadow runs were graded.

    Args:
        completion_ids: of these completions only; None for all.
        within: seconds after which no further judgement is begun.
    """
    end = time.monotonic() + within
    graded = 0
    for read in (_waiting_labels, _waiting_runs):
        after = ""
        while time.monotonic() < end and (batch := read(completion_ids, after)):
            after = batch[-1].completion_id
            graded += _grade(batch, end)
    return graded


def grade_all_waiting(*, within: float) -> int | None:
    """:func:`grade_waiting` for all, unless another process is at it: then None."""
    with _alone() as alone:
        return grade_waiting(within=within) if alone else None


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A label or shadow run as it was read, whose it is, and what to judge."""

    row: Label | ShadowRun
    completion_id: str
    task: Task


def _waiting_labels(completion_ids: Sequence[str] | None, after: str) -> list[_Waiting]:
    """The next labels by completion; those of one completion come together."""
    answered = Completion.objects.filter(outcome=Completion.Outcome.ANSWERED).values("id")
    rows: QuerySet[Label] = Label.objects.filter(_WAITING, admission_id__gt=after, admission_id__in=answered)
    if completion_ids is not None:
        rows = rows.filter(admission_id__in=completion_ids)
    ids = sorted(set(rows.order_by("admission_id").values_list("admission_id", flat=True)[:BATCH]))
    answers = dict(Completion.objects.filter(pk__in=ids).values_list("pk", "answer"))
    labels = Label.objects.filter(_WAITING, admission_id__in=ids).order_by("admission_id")
    return [_Waiting(row, row.admission_id, _task(row, answers[row.admission_id])) for row in labels]


def _task(label: Label, answer: str) -> Task:
    return Task(grader_of(label), unseal_text(answer), unseal_text(label.reference))


def _waiting_runs(completion_ids: Sequence[str] | None, after: str) -> list[_Waiting]:
    rows = ShadowRun.objects.filter(awaits_grading=True, admission_id__gt=after)
    if completion_ids is not None:
        rows = rows.filter(admission_id__in=completion_ids)
    runs = list(rows.order_by("admission_id")[:BATCH])
    references = shadow.references(run.admission_id for run in runs)
    return [
        _Waiting(run, run.admission_id, _task(label, run.answer))
        for run in runs
        if (label := references.get(run.admission_id)) is not None
    ]


def _grade(batch: Sequence[_Waiting], end: float) -> int:
    judgements = judges().judge([item.task for item in batch], within=end - time.monotonic())
    judged = [(item, found) for item, found in zip(batch, judgements, strict=True) if found is not None]
    with transaction.atomic():
        hold_grading_lock()
        changed = [item.completion_id for item, found in judged if _store(item, found)]
        settle(changed)
        mark_changed(changed)
    return len(changed)


def _store(item: _Waiting, found: Judgement) -> bool:
    """Write a judgement down, unless its label or reference was changed since it was read."""
    if isinstance(item.row, Label):
        same = Label.objects.filter(_WAITING, pk=item.row.pk, reference=item.row.reference, grading=item.row.grading)
        return bool(
            same.update(
                correct=found.correct,
                failure=found.failure,
                failure_detail="" if is_sealed(item.row.reference) else found.detail,
                grader_version=item.task.grader.version,
                grading=item.task.grader.identity,
                updated_at=timezone.now(),
            )
        )
    label = shadow.references([item.completion_id]).get(item.completion_id)
    if label is None or (label.reference, grader_of(label)) != (item.task.reference, item.task.grader):
        return False
    run = ShadowRun.objects.filter(pk=item.row.pk, awaits_grading=True)
    return bool(run.update(correct=found.correct, grading_failure=found.failure, awaits_grading=False))


@contextmanager
def _alone() -> Iterator[bool]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [_ONE_AT_A_TIME])
        (alone,) = cursor.fetchone()
        try:
            yield alone
        finally:
            if alone:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [_ONE_AT_A_TIME])
