"""Experiments: creating them, and every change of their state."""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from django.db import transaction
from django.db.models.functions import Now
from django.utils import timezone

from experiments.assignment import bucket_ranges
from experiments.capabilities import shadow_capability
from experiments.models import Checkpoint, Experiment, Phase, UseCase, Variant
from experiments.policies import policy_from_spec
from experiments.services import audit
from experiments.services.changes import announce_change
from experiments.services.declarations import DEFAULT_GUARDRAILS
from experiments.services.errors import InvalidInput, WrongState
from experiments.services.graders import model_grader
from experiments.services.layers import check_room
from experiments.services.registry import check_between, check_capability, valid_policy
from experiments.statistics.design import SMALLEST_TUNING_N
from experiments.statistics.guardrails import to_json

State = Experiment.State
MAX_NAME_LENGTH = 120
MAX_UNITS = 2_147_483_647  # PostgreSQL's integer
_VARIANT_KEY = re.compile(r"[-a-zA-Z0-9_]{1,40}")


@dataclass(frozen=True, slots=True)
class VariantSpec:
    """One arm to be created: a policy (JSON form) plus a checkpoint, and its share of the units."""

    key: str
    policy: object
    checkpoint: Checkpoint
    weight: float
    is_control: bool = False


@transaction.atomic
def create_experiment(
    actor: str,
    use_case: UseCase,
    name: str,
    variants: Sequence[VariantSpec],
    *,
    hypothesis: str = "",
    unit: str = Experiment.Unit.CONVERSATION,
    margin: float | None = None,
    min_saving: float | None = None,
    alpha: float = 0.05,
    maximum_units: int = 100_000,
    tuning_units: int = 5_000,
    coverage: float = 1.0,
    salt: str | None = None,
) -> Experiment:
    """Create a draft. Margin and minimum saving default to the use case's, guardrails to DEFAULT_GUARDRAILS.

    Raises:
        InvalidInput: a value is not allowed; the message names it and its bound.
    """
    margin = use_case.margin if margin is None else margin
    min_saving = use_case.min_saving if min_saving is None else min_saving
    _check_design(name, unit, margin, min_saving, alpha, maximum_units, tuning_units, coverage)
    _check_variants(use_case, variants)
    experiment = Experiment.objects.create(
        use_case=use_case,
        name=name.strip(),
        hypothesis=hypothesis.strip(),
        unit=unit,
        margin=margin,
        min_saving=min_saving,
        alpha=alpha,
        maximum_units=maximum_units,
        tuning_units=tuning_units,
        coverage=coverage,
        salt=salt or secrets.token_hex(8),
        guardrails=to_json(DEFAULT_GUARDRAILS),
    )
    ordered = sorted(variants, key=lambda v: not v.is_control)
    total_weight = math.fsum(variant.weight for variant in variants)
    Variant.objects.bulk_create(
        Variant(
            experiment=experiment,
            key=variant.key,
            position=position,
            is_control=variant.is_control,
            policy=valid_policy(variant.policy),
            checkpoint=variant.checkpoint,
            # Written as percents they may miss 1 by a rounding; the statistics need the exact shares.
            weight=variant.weight / total_weight,
        )
        for position, variant in enumerate(ordered)
    )
    audit.record(actor, "create", experiment, after={"state": State.DRAFT, "name": name})
    return experiment


def _check_design(
    name: str,
    unit: str,
    margin: float,
    min_saving: float,
    alpha: float,
    maximum_units: int,
    tuning_units: int,
    coverage: float,
) -> None:
    if not name.strip():
        raise InvalidInput("name must not be empty", "name")
    if len(name.strip()) > MAX_NAME_LENGTH:
        raise InvalidInput(f"name must have at most {MAX_NAME_LENGTH} characters, got {len(name.strip())}", "name")
    if unit not in Experiment.Unit.values:
        raise InvalidInput(f"unit must be one of {', '.join(Experiment.Unit.values)}, got {unit!r}", "unit")
    check_between("margin", margin, 0.0, 1.0)
    check_between("min_saving", min_saving, -1.0, 1.0)
    check_between("alpha", alpha, 0.0, 0.5)
    if not 0 <= coverage <= 1:
        raise InvalidInput(f"coverage must be from 0 to 1, got {coverage!r}", "coverage")
    for field, units, least in (("tuning_units", tuning_units, SMALLEST_TUNING_N), ("maximum_units", maximum_units, 2)):
        if not least <= units <= MAX_UNITS:
            raise InvalidInput(f"{field} must be from {least} to {MAX_UNITS}, got {units}", field)


def _check_variants(use_case: UseCase, variants: Sequence[VariantSpec]) -> None:
    if len(variants) < 2:
        raise InvalidInput(f"variants must be at least 2, got {len(variants)}", "variants")
    keys = [variant.key for variant in variants]
    if len(set(keys)) < len(keys):
        raise InvalidInput(f"variant keys must be different, got {keys}", "variants")
    # Keys travel in response headers and address the arms in pages and API.
    if bad := [key for key in keys if not _VARIANT_KEY.fullmatch(key)]:
        raise InvalidInput(f"variant keys must be 1 to 40 letters, digits, - and _, got {bad[0]!r}", "variants")
    controls = [variant for variant in variants if variant.is_control]
    if len(controls) != 1:
        raise InvalidInput(f"exactly one variant must be the control, got {len(controls)}", "variants")
    for variant in variants:
        spec = valid_policy(variant.policy, f"variants.{variant.key}.policy")
        if variant.is_control and (spec["name"] != "full" or spec["parameters"]["max_thinking_tokens"] is not None):
            raise InvalidInput(
                f"the control's policy must be full without a cap (the anchor), got {spec['name']}",
                "variants",
            )
        if not 0 < variant.weight <= 1:
            raise InvalidInput(f"weight of {variant.key} must be in (0, 1], got {variant.weight!r}", "variants")
        if variant.checkpoint.model_id != use_case.checkpoint.model_id:
            raise InvalidInput(
                f"checkpoint of {variant.key} must belong to model {use_case.checkpoint.model}, "
                f"got {variant.checkpoint}",
                "variants",
            )
    total = math.fsum(variant.weight for variant in variants)
    if abs(total - 1) > 1e-3:
        raise InvalidInput(f"weights must sum to 1, got {total:g}", "variants")


@transaction.atomic
def start(actor: str, experiment: Experiment, why: str = "") -> Experiment:
    """Draft to running: everything is checked first, then the first phase opens.

    Raises:
        WrongState: it is no draft, or the use case runs an experiment that it may not run beside.
        InvalidInput: something it needs is not there.
    """
    experiment = _locked(experiment, State.DRAFT)
    variants = list(experiment.variants.select_related("checkpoint__model"))
    bucket_ranges([variant.weight for variant in variants], experiment.coverage)
    _check_retention(experiment)
    for variant in variants:
        _check_capability(variant, experiment.shadow_share)
    check_room(experiment)
    experiment.started_at = timezone.now()
    _move(actor, "start", experiment, State.RUNNING, why)
    open_phase(experiment)
    return experiment


def _check_retention(experiment: Experiment) -> None:
    """Raise InvalidInput where the experiment needs texts that its use case does not keep."""
    retention = experiment.use_case.retention
    if experiment.shadow_share > 0 and retention != UseCase.Retention.KEEP:
        raise InvalidInput(
            f"shadow_share must be 0, got {experiment.shadow_share:g}: a shadow run goes over the stored thinking "
            f"again, and use case {experiment.use_case.slug!r} does not keep it (retention {retention})",
            "shadow_share",
        )


def _check_capability(variant: Variant, shadow_share: float) -> None:
    """Raise InvalidInput where the engine of a variant can't do what its policy or the shadow runs need."""
    traits = check_capability(variant.checkpoint, variant.policy, f"variants.{variant.key}.policy")
    if shadow_share > 0:
        able = shadow_capability(traits, policy_from_spec(variant.policy))
        if not able.supported:
            raise InvalidInput(f"shadow_share must be 0: {able.reason}", "shadow_share")


@transaction.atomic
def pause(actor: str, experiment: Experiment, why: str = "") -> Experiment:
    """Running to paused: the use case's policy in force serves everybody, and the phase ends."""
    experiment = _locked(experiment, State.RUNNING)
    _move(actor, "pause", experiment, State.PAUSED, why)
    _close_phase(experiment)
    return experiment


@transaction.atomic
def resume(actor: str, experiment: Experiment, why: str = "") -> Experiment:
    """Paused to running; a new phase, because who comes back may not be who left."""
    experiment = _locked(experiment, State.PAUSED)
    check_room(experiment)
    _check_retention(experiment)
    _move(actor, "resume", experiment, State.RUNNING, why)
    open_phase(experiment)
    return experiment


@transaction.atomic
def stop(actor: str, experiment: Experiment, conclusion: str, why: str = "", ship: Variant | None = None) -> Experiment:
    """End the experiment; shipping puts the variant's policy and checkpoint in force for the use case.

    Raises:
        WrongState: it neither runs nor is paused.
        InvalidInput: unknown conclusion, or shipping without a variant of its own.
    """
    if conclusion not in Experiment.Conclusion.values or not conclusion:
        raise InvalidInput(f"conclusion must be shipped, reverted or inconclusive, got {conclusion!r}", "conclusion")
    if (conclusion == Experiment.Conclusion.SHIPPED) != (ship is not None):
        raise InvalidInput("shipped goes with the variant to ship, and only shipped", "ship")
    experiment = _locked(experiment, State.RUNNING, State.PAUSED)
    if ship is not None:
        if ship.experiment_id != experiment.pk:
            raise InvalidInput(f"variant {ship.key} belongs to another experiment", "ship")
        if ship.reverted_at is not None:
            raise InvalidInput(f"variant {ship.key} was reverted and can't be shipped", "ship")
        _put_in_force(actor, experiment.use_case, ship, why)
    conclude(actor, experiment, conclusion, why)
    return experiment


def conclude(actor: str, experiment: Experiment, conclusion: str, why: str = "") -> None:
    """Move a locked experiment to its end."""
    experiment.conclusion = conclusion
    experiment.stopped_at = timezone.now()
    _move(actor, f"stop: {conclusion}", experiment, State.STOPPED, why)
    _close_phase(experiment)


def _put_in_force(actor: str, use_case: UseCase, variant: Variant, why: str) -> None:
    before = {"policy": use_case.policy, "checkpoint": use_case.checkpoint_id}
    use_case.policy, use_case.checkpoint = variant.policy, variant.checkpoint
    use_case.save(update_fields=["policy", "checkpoint"])
    after = {"policy": variant.policy, "checkpoint": variant.checkpoint_id}
    audit.record(actor, "ship", use_case, before=before, after=after, why=why)


def _locked(experiment: Experiment, *allowed: str) -> Experiment:
    """The row, locked for this transaction; WrongState unless its state is one of ``allowed``."""
    row = Experiment.objects.select_for_update().get(pk=experiment.pk)
    if row.state not in allowed:
        raise WrongState(f"experiment {row.name!r} is {row.state}, this needs it to be {' or '.join(allowed)}")
    return row


def _move(actor: str, action: str, experiment: Experiment, state: str, why: str) -> None:
    before = {"state": experiment.state}
    experiment.state = state
    experiment.save()
    audit.record(
        actor,
        action,
        experiment,
        before=before,
        after={"state": state, "conclusion": experiment.conclusion},
        why=why,
    )
    announce_change()


def open_phase(experiment: Experiment) -> None:
    """End the phase that runs, if one does, and open the next one with the variants that have not been reverted.

    Call it inside the transaction of the change that makes it necessary.
    """
    _close_phase(experiment)
    last = experiment.phases.order_by("-number").first()
    staying = list(experiment.variants.filter(reverted_at=None).select_related("checkpoint__model"))
    total = math.fsum(variant.weight for variant in staying)
    Phase.objects.create(
        experiment=experiment,
        number=last.number + 1 if last else 1,
        weights={variant.key: variant.weight / total for variant in staying},
        # All variants are of one model; labels by another grader, or another version of it, do not count.
        grading=model_grader(staying[0].checkpoint.model).identity if staying else "",
        started_at=timezone.now(),
    )
    # A ramp holds each step anew in a phase of its own: of this one nothing is known yet.
    Experiment.objects.filter(pk=experiment.pk).update(coverage_since=Now())
    experiment.refresh_from_db(fields=["coverage_since"])


def _close_phase(experiment: Experiment) -> None:
    experiment.phases.filter(ended_at=None).update(ended_at=timezone.now())
