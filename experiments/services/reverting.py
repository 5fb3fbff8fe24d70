"""Automatic revert: what a look's verdict does to a running experiment."""

from __future__ import annotations

from django.db import transaction
from django.utils import timezone

from experiments.models import Experiment, Phase, Variant
from experiments.services import audit
from experiments.services.changes import announce_change
from experiments.services.experiments import conclude, open_phase
from experiments.services.notifications import notify
from experiments.statistics.snapshot import Snapshot
from experiments.statistics.verdict import Decision, TreatmentVerdict

ACTOR = "guardrail"


@transaction.atomic
def act_on(phase: Phase, snapshot: Snapshot) -> tuple[str, ...]:
    """Revert the treatments that the snapshot says to revert; the keys of those that were.

    Each leaves the experiment: the rest goes on in a new phase, and without any treatment left the experiment ends
    as reverted. At the declared maximum it ends as inconclusive. Nothing happens when the experiment has moved on
    since the look, or leaves the decision to a person.
    """
    experiment = Experiment.objects.select_for_update().get(pk=phase.experiment_id)
    current = experiment.phase
    moved_on = experiment.state != Experiment.State.RUNNING or current is None or current.pk != phase.pk
    if moved_on or not experiment.automatic:
        return ()
    if snapshot.verdict.decision is Decision.INCONCLUSIVE:
        _end_inconclusive(experiment, snapshot)
        return ()
    wanted = {
        item.treatment: item
        for item in snapshot.verdict.treatments
        if item.decision is Decision.REVERT and item.treatment in phase.weights
    }
    if not wanted:
        return ()
    for variant in experiment.variants.filter(key__in=wanted):
        _revert(experiment, variant, wanted[variant.key])
    left = [key for key in phase.weights if key not in wanted]
    if len(left) > 1:
        open_phase(experiment)
        announce_change()
    else:
        conclude(ACTOR, experiment, Experiment.Conclusion.REVERTED, "every treatment has been reverted")
    return tuple(sorted(wanted))


def _end_inconclusive(experiment: Experiment, snapshot: Snapshot) -> None:
    why = snapshot.verdict.treatments[0].reasons[0].message
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
