"""Automatic revert: what a look's verdict does to a running experiment."""

from __future__ import annotations

from django.db import transaction
from django.utils import timezone

from experiments import models
from experiments.models import Experiment, Notification, Variant
from experiments.services import audit
from experiments.services.changes import announce_change
from experiments.services.experiments import conclude, open_phase
from experiments.services.notifications import notify
from experiments.statistics.snapshot import Snapshot
from experiments.statistics.verdict import Decision, TreatmentVerdict

ACTOR = "guardrail"


@transaction.atomic
def act_on(stored: models.Snapshot, snapshot: Snapshot) -> tuple[str, ...]:
    """Revert the treatments that the snapshot says to revert; the keys of those that were.

    Each leaves the experiment: the rest goes on in a new phase, and without any treatment left the experiment ends
    as reverted. At the declared maximum it ends as inconclusive, unless a treatment may be shipped: that waits for a
    person. Nothing happens when the experiment has moved on since the look, or leaves the decision to a person.

    Args:
        stored: the look.
        snapshot: its data.
    """
    phase = stored.phase
    experiment = Experiment.objects.select_for_update().get(pk=phase.experiment_id)
    current = experiment.phase
    if experiment.state == Experiment.State.STOPPED or current is None or current.pk != phase.pk:
        return ()
    _keep_evidence(experiment, stored, snapshot)
    if experiment.state != Experiment.State.RUNNING or not experiment.automatic:
        return ()
    wanted = {
        item.treatment: item
        for item in snapshot.verdict.treatments
        if item.decision is Decision.REVERT and item.treatment in phase.weights
    }
    for variant in experiment.variants.filter(key__in=wanted):
        _revert(experiment, variant, wanted[variant.key])
    left = [key for key in phase.weights if key not in wanted]
    undecided = [item for item in snapshot.verdict.treatments if item.decision is Decision.INCONCLUSIVE]
    if len(left) == 1:
        conclude(ACTOR, experiment, Experiment.Conclusion.REVERTED, "every treatment has been reverted")
    elif undecided and not experiment.variants.exclude(ship_snapshot=None).exists():
        _end_inconclusive(experiment, undecided[0])
    elif wanted:
        open_phase(experiment)
        announce_change()
    return tuple(sorted(wanted))


def _keep_evidence(experiment: Experiment, stored: models.Snapshot, snapshot: Snapshot) -> None:
    """Keep for each treatment whether the phase's newest look says ship; a phase's evidence outlives the phase.

    A sibling's revert opens a new phase, in which the statistics start anew. The tests of all phases together keep
    alpha, so what one of them has shown stays shown.
    """
    decisions = {item.treatment: item.decision for item in snapshot.verdict.treatments}
    treatments = experiment.variants.filter(key__in=stored.phase.weights, is_control=False)
    for variant in treatments.select_related("ship_snapshot").defer("ship_snapshot__data"):
        kept = variant.ship_snapshot
        decision = decisions.get(variant.key)
        if decision is Decision.SHIP:
            variant.ship_snapshot = stored
        elif decision is Decision.REVERT or (kept is not None and kept.phase_id == stored.phase_id):
            variant.ship_snapshot = None
        if variant.ship_snapshot != kept:
            variant.save(update_fields=["ship_snapshot"])
        if decision is Decision.SHIP and kept is None and not _was_told(experiment, variant):
            _tell_shippable(experiment, variant, stored, snapshot)


def _was_told(experiment: Experiment, variant: Variant) -> bool:
    """Verdicts near alpha come and go; their owner hears of a treatment once."""
    told = Notification.objects.filter(experiment=experiment, payload__event="ship_ready")
    return told.filter(payload__details__variant=variant.key).exists()


def _tell_shippable(experiment: Experiment, variant: Variant, stored: models.Snapshot, snapshot: Snapshot) -> None:
    (verdict,) = (item for item in snapshot.verdict.treatments if item.treatment == variant.key)
    notify(
        experiment,
        event="ship_ready",
        subject=f"{variant.key} may be shipped in {experiment.name}",
        message=" ".join(reason.message for reason in verdict.reasons),
        details={"variant": variant.key, "phase": stored.phase.number, "taken_at": stored.taken_at.isoformat()},
    )


def _end_inconclusive(experiment: Experiment, undecided: TreatmentVerdict) -> None:
    why = undecided.reasons[0].message
    conclude(ACTOR, experiment, Experiment.Conclusion.INCONCLUSIVE, why)
    notify(experiment, event="inconclusive", subject=f"{experiment.name} ended without a decision", message=why)


def _revert(experiment: Experiment, variant: Variant, verdict: TreatmentVerdict) -> None:
    why = " ".join(reason.message for reason in verdict.reasons)
    variant.reverted_at = timezone.now()
    variant.reverted_why = why
    variant.save(update_fields=["reverted_at", "reverted_why"])
    audit.record(
        ACTOR,
        "revert",
        experiment,
        before={"variant": variant.key, "in_experiment": True},
        after={
            "variant": variant.key,
            "in_experiment": False,
            "reasons": [reason.code.value for reason in verdict.reasons],
        },
        why=why,
    )
    notify(
        experiment,
        event="arm_reverted",
        subject=f"{variant.key} was reverted in {experiment.name}",
        message=why,
        details={
            "variant": variant.key,
            "reasons": [
                {"code": reason.code.value, "name": reason.name, "value": reason.value, "bound": reason.bound}
                for reason in verdict.reasons
            ],
        },
    )
