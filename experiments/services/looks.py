"""Looks: from the stored traffic of a phase to a snapshot, one at a time per experiment."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.db import connection, transaction
from django.db.models import Q
from django.utils import timezone

from experiments import models
from experiments.models import Experiment, Phase
from experiments.statistics.aggregates import ClusterAggregate
from experiments.statistics.arms import ArmAggregates, Outcomes, TokenMeans
from experiments.statistics.design import Design
from experiments.statistics.snapshot import LookInputs, analyse
from experiments.statistics.snapshot import Snapshot as StoredSnapshot
from experiments.statistics.srm import SequentialSRM

LEASE_SECONDS = 120
# A request this much past its deadline without a word has been lost: it counts as a timeout.
LOST_AFTER_SECONDS = 10

# Every request of the cohort counts (intention to treat): one that was lost is a timeout without tokens,
# and incorrect where there is a reference.
_ARMS = """
WITH cohort AS (
    SELECT a.variant_id, a.unit_hash, coalesce(c.outcome, 'timeout') AS outcome,
           CASE WHEN l.id IS NULL THEN NULL WHEN c.id IS NULL THEN 0 ELSE l.correct::int END AS correct,
           coalesce(c.thinking_tokens, 0) AS thinking, coalesce(c.answer_tokens, 0) AS answer,
           coalesce(c.probe_tokens, 0) AS probe, coalesce(c.overrun_tokens, 0) AS overrun
    FROM experiments_admission a
    LEFT JOIN experiments_completion c ON c.id = a.id
    LEFT JOIN experiments_label l ON l.admission_id = a.id AND l.source = 'reference'
    WHERE a.phase_id = %(phase)s AND a.variant_id IS NOT NULL AND a.admitted_at < %(cutoff)s
), unit AS (
    SELECT variant_id, count(*) AS n,
           count(*) FILTER (WHERE outcome = 'answered') AS answered,
           count(*) FILTER (WHERE outcome = 'error') AS error,
           count(*) FILTER (WHERE outcome = 'timeout') AS timeout,
           count(*) FILTER (WHERE outcome = 'cancelled') AS cancelled,
           count(correct) AS n_em, coalesce(sum(correct), 0) AS s_em,
           sum(thinking) AS thinking, sum(answer) AS answer, sum(probe) AS probe, sum(overrun) AS overrun,
           sum(thinking + answer + overrun) AS s_unp, sum(thinking + answer + overrun + probe) AS s_tok
    FROM cohort GROUP BY variant_id, unit_hash
)
SELECT variant_id, sum(n) AS n, sum(answered) AS answered, sum(error) AS error, sum(timeout) AS timeout,
       sum(cancelled) AS cancelled, sum(thinking) AS thinking, sum(answer) AS answer, sum(probe) AS probe,
       sum(overrun) AS overrun,
       count(*) FILTER (WHERE n_em > 0) AS em_units, sum(n_em) AS em_n, sum(s_em) AS em_s,
       sum(s_em * s_em) AS em_s2, sum(n_em * n_em) AS em_n2, sum(n_em * s_em) AS em_ns,
       count(*) AS tok_units, sum(n) AS tok_n, sum(s_tok) AS tok_s,
       sum(s_tok * s_tok) AS tok_s2, sum(n * n) AS tok_n2, sum(n * s_tok) AS tok_ns,
       count(*) AS unp_units, sum(n) AS unp_n, sum(s_unp) AS unp_s,
       sum(s_unp * s_unp) AS unp_s2, sum(n * n) AS unp_n2, sum(n * s_unp) AS unp_ns
FROM unit GROUP BY variant_id
"""

_OLDEST_PENDING = """
SELECT min(a.admitted_at) FROM experiments_admission a
LEFT JOIN experiments_completion c ON c.id = a.id
WHERE a.phase_id = %s AND a.deadline_at > %s AND c.id IS NULL
"""


def newest_snapshot(experiment: Experiment) -> models.Snapshot | None:
    """The last look at the experiment's newest phase, or None."""
    return models.Snapshot.objects.filter(phase__experiment=experiment, phase=experiment.phase).first()


def look(experiment_id: int) -> models.Snapshot | None:
    """Analyse the newest phase and store the snapshot.

    Returns:
        The snapshot; None when another look holds the lease, or the experiment never started.
    """
    if not _claim(experiment_id):
        return None
    try:
        experiment = Experiment.objects.get(pk=experiment_id)
        phase = experiment.phase
        if phase is None:
            return None
        with transaction.atomic():
            now = timezone.now()
            inputs = gather(experiment, phase, _cutoff(phase, now))
            return models.Snapshot.objects.create(phase=phase, taken_at=now, data=analyse(inputs).to_dict())
    finally:
        Experiment.objects.filter(pk=experiment_id).update(look_lease_until=None, looked_at=timezone.now())


def gather(experiment: Experiment, phase: Phase, cutoff: datetime) -> LookInputs:
    """The aggregates of the requests admitted to the phase before ``cutoff``."""
    variants = list(experiment.variants.all())
    rows = _rows(_ARMS, {"phase": phase.pk, "cutoff": cutoff})
    by_variant = {row["variant_id"]: row for row in rows}
    exposures = {
        variant.pk: models.Exposure.objects.filter(phase=phase, variant=variant, exposed_at__lt=cutoff).count()
        for variant in variants
    }
    design = Design(
        control=next(variant.key for variant in variants if variant.is_control),
        weights=phase.weights,
        margin=experiment.margin,
        min_saving=experiment.min_saving,
        tuning_n=experiment.tuning_units,
        maximum_units=experiment.maximum_units,
        alpha=experiment.alpha,
    )
    arms = tuple(_arm(v.key, exposures[v.pk], by_variant.get(v.pk)) for v in variants)
    return LookInputs(design=design, arms=arms, srm=_stored_srm(phase))


def _stored_srm(phase: Phase) -> SequentialSRM | None:
    """The sequential test's state as the phase's last look left it."""
    last = models.Snapshot.objects.filter(phase=phase).first()
    return None if last is None else StoredSnapshot.from_dict(last.data).srm


def _arm(key: str, exposures: int, row: dict[str, Any] | None) -> ArmAggregates:
    if row is None:
        empty = ClusterAggregate.empty()
        return ArmAggregates(key, exposures, None, empty, empty, 0, 0, Outcomes())
    completions = int(row["n"])
    labelled = int(row["em_n"])
    return ArmAggregates(
        key=key,
        exposures=exposures,
        em=_aggregate(row, "em") if labelled else None,
        decoded_tokens=_aggregate(row, "tok"),
        tokens_without_probes=_aggregate(row, "unp"),
        completions=completions,
        labelled_completions=labelled,
        outcomes=Outcomes(
            answered=int(row["answered"]),
            error=int(row["error"]),
            timeout=int(row["timeout"]),
            cancelled=int(row["cancelled"]),
        ),
        token_means=TokenMeans(
            *(float(row[kind]) / completions for kind in ("thinking", "answer", "probe", "overrun"))
        ),
    )


def _aggregate(row: dict[str, Any], prefix: str) -> ClusterAggregate:
    names = ("units", "n", "s", "s2", "n2", "ns")
    return ClusterAggregate(*(int(row[f"{prefix}_{name}"]) for name in names))


def _cutoff(phase: Phase, now: datetime) -> datetime:
    """Admission time up to which every request has ended.

    A look that took in whatever has ended would see the short answers first. All requests admitted before
    the oldest one in flight have ended, whatever their length.
    """
    with connection.cursor() as cursor:
        cursor.execute(_OLDEST_PENDING, [phase.pk, now - timedelta(seconds=LOST_AFTER_SECONDS)])
        (oldest,) = cursor.fetchone()
    return oldest or now


def _claim(experiment_id: int) -> bool:
    """Take the lease by a conditional UPDATE: one look at a time, and a dead one's lease runs out."""
    now = timezone.now()
    free = Q(look_lease_until=None) | Q(look_lease_until__lt=now)
    claimed = Experiment.objects.filter(free, pk=experiment_id)
    return claimed.update(look_lease_until=now + timedelta(seconds=LEASE_SECONDS)) == 1


def _rows(sql: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, values, strict=True)) for values in cursor.fetchall()]
