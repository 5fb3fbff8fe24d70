"""Looks: from the stored traffic of a phase to a snapshot, one at a time per experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from django.db import connection, transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from experiments import models
from experiments.models import Experiment, Phase
from experiments.services import accumulators, processes, sketches
from experiments.services.accumulators import ALL, PAIRS, SEGMENT
from experiments.services.changes import note_look
from experiments.services.reverting import act_on
from experiments.statistics import codec
from experiments.statistics.aggregates import ClusterAggregate
from experiments.statistics.columns import arm_aggregates, em_aggregate
from experiments.statistics.design import Design
from experiments.statistics.evidence import Evidence
from experiments.statistics.guardrails import from_json
from experiments.statistics.moments import UnitMoments
from experiments.statistics.phases import alpha_in_phase
from experiments.statistics.snapshot import LookInputs, analyse
from experiments.statistics.srm import SequentialSRM

LEASE_SECONDS = 120
# A request this much past its deadline without a word has been lost: it counts as a timeout.
LOST_AFTER_SECONDS = 10
# By then the ledger writer has stored what gateways admitted before they heard of a phase's end.
SETTLED_AFTER = timedelta(hours=1)

_OLDEST_PENDING = """
SELECT min(a.admitted_at) FROM experiments_admission a
LEFT JOIN experiments_completion c ON c.id = a.id
WHERE a.phase_id = %s AND (%s::timestamptz IS NULL OR a.admitted_at >= %s) AND a.deadline_at > %s AND c.id IS NULL
"""


def newest_snapshot(experiment: Experiment) -> models.Snapshot | None:
    """The last look at the experiment's newest phase, or None."""
    return models.Snapshot.objects.filter(phase__experiment=experiment, phase=experiment.phase).first()


def look(experiment_id: int) -> models.Snapshot | None:
    """Analyse the newest phase, store the snapshot, and revert what its verdict says to revert.

    Returns:
        The snapshot; None when another look holds the lease or took it over, or the experiment never started.
    """
    lease = _Lease.claim(experiment_id)
    if lease is None:
        return None
    try:
        return _look(experiment_id, lease)
    except _LeaseLostError:
        return None
    finally:
        lease.release()


def _look(experiment_id: int, lease: _Lease) -> models.Snapshot | None:
    experiment = Experiment.objects.get(pk=experiment_id)
    phase = experiment.phase
    if phase is None:
        return None
    now = timezone.now()
    lost_before = now - timedelta(seconds=LOST_AFTER_SECONDS)
    cutoff = _cutoff(experiment, phase, now, lost_before)
    accumulators.count_until(experiment, phase, cutoff, lost_before, after_chunk=lease.renew)
    with transaction.atomic():
        lease.hold()
        snapshot = analyse(gather(experiment, phase, now))
        stored = models.Snapshot.objects.create(phase=phase, taken_at=now, data=snapshot.to_dict())
        act_on(stored, snapshot)
        Experiment.objects.filter(pk=experiment_id).update(looked_at=timezone.now())
    note_look(experiment_id, now)
    return stored


def gather(experiment: Experiment, phase: Phase, now: datetime) -> LookInputs:
    """What a look at the phase is a function of, from its accumulators."""
    variants = {variant.key: variant for variant in experiment.variants.all()}
    staying = [variants[key] for key in phase.weights]
    moments = accumulators.load_moments(phase)
    return LookInputs(
        design=_design(experiment, phase, variants),
        arms=tuple(arm_aggregates(v.key, moments.get((v.pk, ALL)), moments.get((v.pk, PAIRS))) for v in staying),
        srm=_stored_srm(phase),
        duration_reached=_duration_reached(experiment, now),
        reverted=tuple(sorted(key for key in variants if key not in phase.weights)),
        evidence=_evidence(experiment, phase, staying, moments),
        earlier_units=_earlier_units(phase, now),
    )


def _earlier_units(phase: Phase, now: datetime) -> int:
    """Exposures of the phases before. Their number is kept once none can come any more."""
    total = 0
    for earlier in Phase.objects.filter(experiment=phase.experiment_id, number__lt=phase.number):
        exposures = earlier.exposures
        if exposures is None:
            exposures = models.Exposure.objects.filter(phase=earlier).count()
            if earlier.ended_at is not None and now - earlier.ended_at > SETTLED_AFTER:
                Phase.objects.filter(pk=earlier.pk).update(exposures=exposures)
        total += exposures
    return total


def _evidence(
    experiment: Experiment,
    phase: Phase,
    variants: Sequence[models.Variant],
    moments: Mapping[tuple[int, str], UnitMoments],
) -> dict[str, Evidence]:
    tests, sketched = processes.load(experiment, phase), sketches.load(phase)
    return {
        variant.key: Evidence(
            moments=moments.get((variant.pk, ALL)),
            segments=_segments(variant.pk, moments),
            pairs=moments.get((variant.pk, PAIRS)),
            sketches=sketched.get(variant.pk, {}),
            em_test=tests[variant.key].em if variant.key in tests else None,
            guardrail_tests=tests[variant.key].guardrails if variant.key in tests else {},
            predictions=bool(experiment.proxy_source),
            random_labels=experiment.estimand_source == "audit",
        )
        for variant in variants
    }


def _segments(variant_id: int, moments: Mapping[tuple[int, str], UnitMoments]) -> dict[str, ClusterAggregate]:
    found = {}
    for (owner, cohort), own in moments.items():
        labelled = em_aggregate(own) if owner == variant_id and cohort.startswith(SEGMENT) else None
        if labelled is not None:
            found[cohort.removeprefix(SEGMENT)] = labelled
    return found


def _design(experiment: Experiment, phase: Phase, variants: Mapping[str, models.Variant]) -> Design:
    return Design(
        control=next(key for key, variant in variants.items() if variant.is_control),
        weights=phase.weights,
        margin=experiment.margin,
        min_saving=experiment.min_saving,
        tuning_n=experiment.tuning_units,
        maximum_units=experiment.maximum_units,
        alpha=alpha_in_phase(experiment.alpha, phase.number),
        false_revert_alpha=alpha_in_phase(experiment.false_revert_alpha, phase.number),
        guardrails=from_json(experiment.guardrails),
        segments=tuple(experiment.segments),
    )


def _duration_reached(experiment: Experiment, now: datetime) -> bool:
    if experiment.maximum_days is None or experiment.started_at is None:
        return False
    return now >= experiment.started_at + timedelta(days=experiment.maximum_days)


def _stored_srm(phase: Phase) -> SequentialSRM | None:
    """The sequential test's state as the phase's last look left it."""
    last = models.Snapshot.objects.filter(phase=phase).first()
    return None if last is None else codec.decode(SequentialSRM, last.data["srm"])


def _cutoff(experiment: Experiment, phase: Phase, now: datetime, lost_before: datetime) -> datetime:
    """Admission time up to which every request has ended and has had its time to be labelled.

    A look that took in whatever has ended would see the short answers first. All requests admitted before
    the oldest one in flight have ended, whatever their length.
    """
    labelled = now - timedelta(seconds=experiment.label_window_seconds)
    with connection.cursor() as cursor:
        cursor.execute(_OLDEST_PENDING, [phase.pk, phase.counted_until, phase.counted_until, lost_before])
        (oldest,) = cursor.fetchone()
    return min(oldest or now, labelled)


class _LeaseLostError(Exception):
    """This look took longer than its lease, and another one has begun since."""


class _Lease:
    """The right to look at an experiment: one look at a time, and a dead one's lease runs out.

    Its end is also its name: only who holds it may renew or release it.
    """

    def __init__(self, experiment_id: int, until: datetime) -> None:
        self._experiment_id = experiment_id
        self._until = until

    @classmethod
    def claim(cls, experiment_id: int) -> _Lease | None:
        """Take it by a conditional UPDATE; None while another look has it."""
        now = timezone.now()
        free = Q(look_lease_until=None) | Q(look_lease_until__lt=now)
        lease = cls(experiment_id, now + timedelta(seconds=LEASE_SECONDS))
        claimed = Experiment.objects.filter(free, pk=experiment_id).update(look_lease_until=lease._until)
        return lease if claimed == 1 else None

    def renew(self) -> None:
        """Have it run from now on; _LeaseLostError when it is another's."""
        until = timezone.now() + timedelta(seconds=LEASE_SECONDS)
        if self._mine().update(look_lease_until=until) != 1:
            raise _LeaseLostError
        self._until = until

    def hold(self) -> None:
        """Let nobody take it over before this transaction ends; _LeaseLostError when it is another's."""
        # Not by renewing it: a transaction that fails would take the new name back.
        if not list(self._mine().select_for_update().values_list("pk")):
            raise _LeaseLostError

    def release(self) -> None:
        """Give it up, if it is still held."""
        self._mine().update(look_lease_until=None)

    def _mine(self) -> QuerySet[Experiment]:
        return Experiment.objects.filter(pk=self._experiment_id, look_lease_until=self._until)
