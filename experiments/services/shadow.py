"""Shadow runs: which requests get one, and what became of it."""

from __future__ import annotations

import uuid
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone

from experiments import wire
from experiments.grading import NORMALISER_VERSION, normalise_answer
from experiments.models import Admission, Completion, Experiment, Label, ShadowRun, Variant
from experiments.policies import ExitReason
from experiments.services.graders import grader_of
from experiments.services.recounting import hold_grading_lock, mark_changed
from experiments.services.redis_clients import sync_redis
from experiments.wire import ShadowRecord, ShadowRequest

Kind, State = ShadowRun.Kind, ShadowRun.State
MAX_AT_ONCE = 200
# What has not been run for so long says little about the traffic of today.
EXPIRES_AFTER = timedelta(hours=6)
_FULL = {"name": "full", "parameters": {"max_thinking_tokens": None}}


# Exits that a policy decided; all others would have come without it.
_STOPPED_BY_POLICY = {ExitReason.CONVERGED, ExitReason.CONFIDENT, ExitReason.TOKEN_BUDGET, ExitReason.HARD_CAP}


def queue_due() -> int:
    """Queue shadow runs for the drawn requests of running experiments that were answered since; how many.

    A treated request that its policy did not stop needs none: the full run is the same.
    """
    now = timezone.now()
    late = ShadowRun.objects.filter(state=State.QUEUED, queued_at__lt=now - 2 * EXPIRES_AFTER)
    late.update(state=State.FAILED, error="lost on its way", completed_at=now)
    waiting = (
        Admission.objects.filter(
            shadowed=True,
            retention=wire.KEEP,
            shadow_run=None,
            admitted_at__gte=now - EXPIRES_AFTER,
            phase__experiment__state=Experiment.State.RUNNING,
            variant__isnull=False,
        )
        .filter(pk__in=Completion.objects.filter(outcome=Completion.Outcome.ANSWERED).values("pk"))
        .select_related("variant", "phase__experiment")
        .order_by("admitted_at")[:MAX_AT_ONCE]
    )
    admissions = list(waiting)
    completions = Completion.objects.in_bulk([admission.pk for admission in admissions])
    pairings = {admission.phase_id: _Pairing.of(admission) for admission in admissions}
    queued, unpaired = 0, []
    for admission in admissions:
        pair, completion = pairings[admission.phase_id].choose(admission), completions[admission.pk]
        if pair is None or completion.messages is None:
            unpaired.append(admission.pk)
            continue
        _queue(admission, completion, *pair, now)
        queued += 1
    # Otherwise they would stand at the head of the queue for hours.
    Admission.objects.filter(pk__in=unpaired).update(shadowed=False)
    return queued


@dataclass(frozen=True, slots=True)
class _Pairing:
    """Which variants of a phase share their thought with the control: those with its checkpoint."""

    control: Variant
    treatments: tuple[Variant, ...]

    @classmethod
    def of(cls, admission: Admission) -> _Pairing:
        phase = admission.phase
        assert phase is not None
        variants = [variant for variant in phase.experiment.variants.all() if variant.key in phase.weights]
        control = next(variant for variant in variants if variant.is_control)
        sharing = [v for v in variants if not v.is_control and v.checkpoint_id == control.checkpoint_id]
        return cls(control, tuple(sharing))

    def choose(self, admission: Admission) -> tuple[Variant, str] | None:
        """The treatment that the request's shadow run compares with the control, and how; None for none."""
        if admission.variant_id == self.control.pk:
            # By the request's id: each treatment gets its share of the control's requests.
            number = zlib.crc32(admission.pk.encode())
            return (self.treatments[number % len(self.treatments)], Kind.PROBE) if self.treatments else None
        return next(((v, Kind.CONTINUE) for v in self.treatments if v.pk == admission.variant_id), None)


@transaction.atomic
def _queue(admission: Admission, completion: Completion, treatment: Variant, kind: str, now: datetime) -> None:
    run = ShadowRun(id=f"shadow-{uuid.uuid4().hex}", admission=admission, treatment=treatment, kind=kind, queued_at=now)
    if kind == Kind.CONTINUE and completion.exit_reason not in _STOPPED_BY_POLICY:
        hold_grading_lock()
        _same_as(run, completion)
        run.save(force_insert=True)
        grade([run])
        mark_changed([admission.pk])
        return
    run.save(force_insert=True)
    # Nothing after the thinking: decoding ended inside it, and no tag closed it.
    ended = completion.exit_reason == ExitReason.END_OF_THINKING and completion.answer_tokens > 0
    request = ShadowRequest(
        id=run.pk,
        messages=completion.messages or [],
        policy=_FULL if kind == Kind.CONTINUE else treatment.policy,
        thinking=completion.thinking,
        ended=ended,
        start_by=(now + EXPIRES_AFTER).timestamp(),
        **admission.sampling,
    )
    stream = wire.shadow_stream(admission.checkpoint_id)
    transaction.on_commit(lambda: sync_redis().xadd(stream, {wire.PAYLOAD: request.encode()}))


def _same_as(run: ShadowRun, completion: Completion) -> None:
    """The full run of a request that was never stopped: itself, without its probes."""
    run.state, run.completed_at = State.ANSWERED, completion.completed_at
    run.answer, run.exit_reason, run.decision_step = completion.answer, completion.exit_reason, completion.decision_step
    run.forced_tokens, run.answer_tokens = completion.thinking_tokens, completion.answer_tokens


def store_records(records: Sequence[ShadowRecord]) -> list[str]:
    """Store how shadow runs ended; the ids of the requests that they belong to. A run ends once.

    Call it under the grading lock, inside the transaction of the batch.
    """
    runs = ShadowRun.objects.select_for_update().in_bulk([record.id for record in records])
    ended = []
    for record in records:
        run = runs.get(record.id)
        if run is None or run.state != State.QUEUED:
            continue
        run.state = State.FAILED if record.error else State.ANSWERED
        run.completed_at = datetime.fromtimestamp(record.completed_at, UTC)
        for name in _COPIED:
            setattr(run, name, getattr(record, name))
        run.save()
        ended.append(run)
    grade(run for run in ended if run.state == State.ANSWERED)
    return [run.admission_id for run in ended]


_COPIED = (
    "answer",
    "exit_reason",
    "decision_step",
    "thinking_tokens",
    "answer_tokens",
    "probe_tokens",
    "overrun_tokens",
    "forced_tokens",
    "error",
)


def grade(runs: Iterable[ShadowRun]) -> None:
    """Say of answered runs whether they agree with their request's answer, and whether they are correct."""
    by_request = {run.admission_id: run for run in runs}
    if not by_request:
        return
    completions = Completion.objects.in_bulk(by_request)
    labels = references(by_request)
    for pk, run in by_request.items():
        run.agrees = normalise_answer(run.answer) == normalise_answer(completions[pk].answer)
        _judge(run, labels.get(pk))
    ShadowRun.objects.bulk_update(by_request.values(), ["agrees", "correct", "awaits_grading", "grading_failure"])
    _label_agreement(by_request.values())


def _judge(run: ShadowRun, label: Label | None) -> None:
    run.correct, run.awaits_grading, run.grading_failure = None, False, ""
    if label is None:
        return
    grader = grader_of(label)
    if grader.isolated:
        run.awaits_grading = True
        return
    try:
        run.correct = grader.grade(run.answer, label.reference)
    except ValueError:
        run.grading_failure = Label.Failure.REFERENCE


def _label_agreement(runs: Iterable[ShadowRun]) -> None:
    """Agreement with the full answer predicts correctness: a label of its own source, which never decides alone."""
    Label.objects.bulk_create(
        (
            Label(
                admission_id=run.admission_id,
                source=Label.Source.AGREEMENT,
                grader="normaliser",
                grader_version=NORMALISER_VERSION,
                grading=f"normaliser/{NORMALISER_VERSION}",
                score=100 if run.agrees else 0,
            )
            for run in runs
        ),
        update_conflicts=True,
        unique_fields=["admission", "source"],
        update_fields=["grader", "grader_version", "grading", "score", "updated_at"],
    )


def grade_again(admission_ids: Sequence[str]) -> None:
    """Grade the answered runs of requests whose references came or changed; those that were erased stay as they are."""
    runs = ShadowRun.objects.filter(admission_id__in=admission_ids, state=State.ANSWERED)
    grade(runs.filter(admission__retention=wire.KEEP))


def references(admission_ids: Iterable[str]) -> dict[str, Label]:
    """The label that a request's experiment measures EM by: both sides of a pair are graded by the same reference."""
    of_estimand = Label.objects.filter(
        Q(admission__audited=True) | ~Q(source=Label.Source.AUDIT),
        admission_id__in=list(admission_ids),
        source=F("admission__phase__experiment__estimand_source"),
    )
    return {label.admission_id: label for label in of_estimand.exclude(reference="")}
