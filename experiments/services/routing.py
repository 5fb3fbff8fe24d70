"""Building the gateways' in-memory view from the database."""

from __future__ import annotations

from experiments.assignment import bucket_ranges
from experiments.models import ApiKey, Experiment, UseCase
from experiments.policies import policy_from_spec, policy_version
from experiments.routing import Arm, KeyGrant, Route, Routing, RunningExperiment


def load_routing(version: int) -> Routing:
    """Read keys, use cases and running experiments.

    Args:
        version: the configuration's version, read before the call.
    """
    keys = {
        key.digest: KeyGrant(key.use_case.slug, frozenset(key.scopes))
        for key in ApiKey.objects.filter(revoked_at=None).select_related("use_case")
    }
    running = {
        experiment.use_case_id: experiment
        for experiment in Experiment.objects.filter(state=Experiment.State.RUNNING).prefetch_related("variants")
    }
    routes = {
        use_case.slug: _route(use_case, running.get(use_case.pk))
        for use_case in UseCase.objects.select_related("checkpoint__model")
    }
    return Routing(version, keys, routes)


def _route(use_case: UseCase, experiment: Experiment | None) -> Route:
    model = use_case.checkpoint.model
    return Route(
        use_case_id=use_case.pk,
        slug=use_case.slug,
        model=model.name,
        temperature=model.temperature,
        deadline_seconds=use_case.deadline_seconds,
        in_force=_arm(use_case.checkpoint_id, use_case.policy),
        experiment=_running(experiment) if experiment else None,
        retention=use_case.retention,
    )


def _running(experiment: Experiment) -> RunningExperiment | None:
    phase = experiment.phase
    if phase is None:
        return None
    variants = list(experiment.variants.all())
    # Ranges of all variants, those of reverted ones left out: nobody else's units move.
    ranges = bucket_ranges([variant.weight for variant in variants], experiment.coverage)
    staying = [(v, where) for v, where in zip(variants, ranges, strict=True) if v.key in phase.weights]
    return RunningExperiment(
        id=experiment.pk,
        phase_id=phase.pk,
        salt=experiment.salt,
        unit=experiment.unit,
        ranges=tuple(where for _, where in staying),
        arms=tuple(_arm(v.checkpoint_id, v.policy, v.pk, v.key) for v, _ in staying),
        phase_started_at=phase.started_at.timestamp(),
        audit_every=experiment.audit_every,
        shadow_share=experiment.shadow_share,
    )


def _arm(checkpoint_id: int, policy: dict[str, object], variant_id: int | None = None, key: str | None = None) -> Arm:
    return Arm(checkpoint_id, policy, policy_version(policy_from_spec(policy)), variant_id, key)
