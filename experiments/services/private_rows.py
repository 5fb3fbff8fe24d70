"""Rows whose texts are not kept: what may come in of them, and what has to go once it is graded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

from django.db import transaction
from django.db.models import Exists, OuterRef, Q
from django.utils import timezone

from experiments.models import Admission, Completion, Label, UseCase
from experiments.services.recounting import hold_grading_lock
from experiments.services.retention import (
    admission_to_store,
    kept_answer,
    kept_error,
    kept_messages,
    kept_text,
    stricter,
    to_store,
)
from experiments.services.sealing import TEXT_MARK
from experiments.wire import DROP, KEEP, AdmissionRecord, CompletionRecord

BATCH = 1000
WAITING = Q(correct=None, score=None, failure="")
# After its deadline nobody decodes a request any more; its record may still be on its way.
_LOST_AFTER = timedelta(hours=1)


def protected(
    admissions: Sequence[AdmissionRecord], completions: Sequence[CompletionRecord]
) -> tuple[list[AdmissionRecord], list[CompletionRecord]]:
    """The records as the tables may hold them, by the stricter one of their own retention and that of today."""
    of_use_case = dict(UseCase.objects.exclude(retention=KEEP).values_list("pk", "retention"))
    admitted = [
        admission_to_store(record, stricter(record.retention, of_use_case.get(record.use_case_id, KEEP)))
        for record in admissions
    ]
    known = retentions([record.id for record in completions])
    known |= {record.id: record.retention for record in admitted if record.id not in known}
    return admitted, [
        to_store(record, stricter(record.retention, known.get(record.id, KEEP))) for record in completions
    ]


def retentions(admission_ids: Iterable[str]) -> dict[str, str]:
    """The retention of those admissions whose texts are not kept."""
    rows = Admission.objects.filter(pk__in=list(admission_ids)).exclude(retention=KEEP)
    return dict(rows.values_list("pk", "retention"))


def settle(admission_ids: Sequence[str]) -> None:
    """Take the texts that are not kept out of those rows that need them no more.

    Answer and reference are needed while a label waits to be graded; the reference also while there is no completion.
    Call it under the grading lock, in the transaction of the change.
    """
    private = retentions(admission_ids)
    if not private:
        return
    labels = Label.objects.filter(admission_id__in=private)
    waiting = set(labels.filter(WAITING).values_list("admission_id", flat=True))
    completions = list(Completion.objects.filter(pk__in=private.keys() - waiting))
    for row in completions:
        strip(row, private[row.pk])
    Completion.objects.bulk_update(completions, COMPLETION_FIELDS, batch_size=BATCH)
    # In bulk, None would be JSON's null.
    Completion.objects.filter(pk__in=[row.pk for row in completions if row.messages is None]).update(messages=None)
    done = {row.pk: private[row.pk] for row in completions}
    admissions = list(Admission.objects.filter(pk__in=done).exclude(reference=None))
    for admission in admissions:
        admission.reference = kept_answer(admission.reference or "", done[admission.pk]) or None
    Admission.objects.bulk_update(admissions, ["reference"], batch_size=BATCH)
    graded = list(labels.filter(admission_id__in=done).exclude(reference="", failure_detail=""))
    for label in graded:
        label.reference, label.failure_detail = kept_answer(label.reference, done[label.admission_id]), ""
    Label.objects.bulk_update(graded, ["reference", "failure_detail"], batch_size=BATCH)


@transaction.atomic
def settle_lost() -> int:
    """Forget the references of requests whose completion will not come any more; how many."""
    hold_grading_lock()
    lost = Admission.objects.filter(
        ~Exists(Completion.objects.filter(pk=OuterRef("pk"))),
        reference__startswith=TEXT_MARK,
        deadline_at__lt=timezone.now() - _LOST_AFTER,
    )
    ids = list(lost.exclude(retention=KEEP).values_list("pk", flat=True)[:BATCH])
    forget_references(ids)
    return len(ids)


def forget_references(admission_ids: Sequence[str]) -> None:
    """Take references away, graded or not. A label that waits stays: one of a lost request counts as incorrect."""
    Admission.objects.filter(pk__in=admission_ids).exclude(reference=None).update(reference=None)
    labels = Label.objects.filter(admission_id__in=admission_ids)
    labels.filter(WAITING).update(failure=Label.Failure.REFERENCE)
    labels.update(reference="", failure_detail="")


COMPLETION_FIELDS = ["messages", "thinking", "text", "answer", "answer_removed", "error", "exit_detail", "retention"]


def strip(row: Completion, retention: str) -> None:
    """Leave of a completion what its retention allows."""
    row.answer_removed = row.answer_removed or (retention == DROP and bool(row.answer))
    row.messages = kept_messages(row.messages, retention)
    row.thinking = kept_text(row.thinking, retention)
    row.text = kept_text(row.text, retention)
    row.answer = kept_answer(row.answer, retention)
    row.error = kept_error(row.error, retention)
    row.exit_detail, row.retention = "", retention
