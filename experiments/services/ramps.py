"""Raising the coverage of a running experiment: by hand, and step by step along its ramp.

More coverage moves no unit that is in already, so it opens no phase.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now

from experiments import models
from experiments.models import Experiment
from experiments.ramp import Step, hold_seconds, next_coverage, ramp_from_json
from experiments.routing import UNWATCHED_AFTER_SECONDS
from experiments.services import audit
from experiments.services.changes import announce_change
from experiments.services.errors import InvalidInput, WrongState
from experiments.statistics.snapshot import Snapshot
from experiments.statistics.verdict import Decision

ACTOR = "ramp"


@dataclass(frozen=True, slots=True)
class RampStatus:
    """Where a running experiment is on its ramp.

    Attributes:
        next_coverage: of the next step.
        due_at: when the present one has been held long enough.
        held: why the next one would not be taken now whatever the time; "" when nothing speaks against it.
    """

    next_coverage: float
    due_at: datetime
    held: str


@transaction.atomic
def raise_coverage(actor: str, experiment: Experiment, coverage: float, why: str = "") -> Experiment:
    """Take more units into a running experiment.

    Raises:
        WrongState: it does not run.
        InvalidInput: the coverage is not above the present one, or above 1.
    """
    row = Experiment.objects.select_for_update().get(pk=experiment.pk)
    if row.state != Experiment.State.RUNNING:
        raise WrongState(f"experiment {row.name!r} is {row.state}, this needs it to be running")
    # Lowering it would send units away that the phase counts.
    if not math.isfinite(coverage) or not row.coverage < coverage <= 1:
        raise InvalidInput(
            f"coverage must be above the present {row.coverage:g} and at most 1, got {coverage!r}", "coverage"
        )
    Experiment.objects.filter(pk=row.pk).update(coverage=coverage, coverage_since=Now())
    _record(actor, row, coverage, why)
    return Experiment.objects.get(pk=row.pk)


def advance_ramps() -> int:
    """Take the next step of each running experiment whose ramp allows one; how many were taken."""
    running = Experiment.objects.filter(state=Experiment.State.RUNNING, coverage__lt=1).exclude(ramp=[])
    return sum(advance(pk) for pk in running.values_list("pk", flat=True))


@transaction.atomic
def advance(experiment_id: int) -> bool:
    """Take the next step of a ramp if its time has come and nothing speaks against it; whether it was taken.

    Two at once take one step: the change is made only to the coverage that was seen, and the database's clock decides.
    """
    experiment = Experiment.objects.get(pk=experiment_id)
    ramp, seen = ramp_from_json(experiment.ramp), experiment.coverage
    wanted = next_coverage(ramp, seen)
    if wanted is None or _held(experiment):
        return False
    hold = hold_seconds(ramp, seen)
    due = Experiment.objects.filter(
        pk=experiment_id,
        state=Experiment.State.RUNNING,
        coverage=seen,
        coverage_since=experiment.coverage_since,
        coverage_since__lte=Now() - timedelta(seconds=hold),
    )
    if due.update(coverage=wanted, coverage_since=Now()) != 1:
        return False
    why = f"{_percent(seen)} was held for {hold} s, and the newest look is healthy with no guardrail breached"
    _record(ACTOR, experiment, wanted, why)
    return True


def ramp_status(experiment: Experiment) -> RampStatus | None:
    """Where it is on its ramp; None when it does not run or has no step before it."""
    ramp: tuple[Step, ...] = ramp_from_json(experiment.ramp)
    wanted = next_coverage(ramp, experiment.coverage)
    if experiment.state != Experiment.State.RUNNING or wanted is None or experiment.coverage_since is None:
        return None
    held_for = timedelta(seconds=hold_seconds(ramp, experiment.coverage))
    return RampStatus(wanted, experiment.coverage_since + held_for, _held(experiment))


def _held(experiment: Experiment) -> str:
    """Why the next step must wait; "" when only its time decides."""
    looks = models.Snapshot.objects.filter(phase=experiment.phase, taken_at__gte=F("phase__experiment__coverage_since"))
    newest = looks.filter(taken_at__gte=Now() - timedelta(seconds=UNWATCHED_AFTER_SECONDS)).first()
    if newest is None:
        return f"there is no look at this coverage from the last {UNWATCHED_AFTER_SECONDS:g} seconds"
    try:
        return _alarming(Snapshot.from_dict(newest.data))
    except ValueError as error:
        return f"the newest look can't be read: {error}"


def _alarming(snapshot: Snapshot) -> str:
    """The first thing that speaks against more units; "" when nothing does."""
    troubles = [check.message for check in snapshot.health.failures]
    # Where nothing has been seen nothing can look ill.
    unseen = [arm.key for arm in snapshot.arms if arm.completions == 0]
    troubles += [f"no completion of {key} has been counted in this phase yet" for key in unseen]
    troubles += [result.message for result in snapshot.guardrails if result.breached]
    for verdict in snapshot.verdict.treatments:
        # An arm that is gone already is no reason to keep the others back.
        if verdict.decision is Decision.REVERT and verdict.treatment in snapshot.design.weights:
            troubles += [reason.message for reason in verdict.reasons]
    return troubles[0] if troubles else ""


def _record(actor: str, experiment: Experiment, coverage: float, why: str) -> None:
    before, after = {"coverage": experiment.coverage}, {"coverage": coverage}
    audit.record(actor, "raise coverage", experiment, before=before, after=after, why=why)
    announce_change()


def _percent(coverage: float) -> str:
    return f"{100 * coverage:g}%"
