"""Building the gateways' in-memory view from the database."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from experiments.assignment import BUCKETS, Slice, bucket_ranges, layer_salt
from experiments.models import ApiKey, Experiment, UseCase
from experiments.policies import policy_from_spec, policy_version
from experiments.routing import Arm, KeyGrant, Route, Routing, RunningExperiment


def load_routing(version: int) -> Routing:
    """Read keys, use cases and running experiments.

    Args:
        version: the configuration's version, read before the call.
    """
    keys = {
        key.digest: _grant(key)
        for key in ApiKey.objects.filter(revoked_at=None).select_related("use_case").prefetch_related("use_cases")
    }
    running = defaultdict(list)
    of_all = Experiment.objects.filter(state=Experiment.State.RUNNING).select_related("use_case")
    for experiment in of_all.prefetch_related("variants").order_by("pk"):
        running[experiment.use_case_id].append(experiment)
    routes = {
        use_case.slug: _route(use_case, running[use_case.pk])
        for use_case in UseCase.objects.select_related("checkpoint__model")
    }
    return Routing(version, keys, routes)


def _grant(key: ApiKey) -> KeyGrant:
    further = frozenset(use_case.slug for use_case in key.use_cases.all())
    return KeyGrant(key.use_case.slug, frozenset(key.scopes), further, key.any_use_case)


def _route(use_case: UseCase, experiments: Sequence[Experiment]) -> Route:
    model = use_case.checkpoint.model
    return Route(
        use_case_id=use_case.pk,
        slug=use_case.slug,
        model=model.name,
        temperature=model.temperature,
        deadline_seconds=use_case.deadline_seconds,
        in_force=_arm(use_case.checkpoint_id, use_case.policy),
        experiments=tuple(found for found in map(_running, experiments) if found is not None),
        holdout=_holdout(use_case),
        by_context={name: _arm(use_case.checkpoint_id, spec) for name, spec in use_case.policies_by_context.items()},
        engine=model.engine,
        retention=use_case.retention,
    )


def _holdout(use_case: UseCase) -> Slice | None:
    if use_case.holdout == 0:
        return None
    return Slice(use_case.holdout_salt, 0, round(use_case.holdout * BUCKETS))


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
        layer=_layer(experiment),
    )


def _layer(experiment: Experiment) -> Slice | None:
    if not experiment.layer:
        return None
    salt = layer_salt(experiment.use_case.slug, experiment.layer)
    return Slice(salt, experiment.layer_low, experiment.layer_high)


def _arm(checkpoint_id: int, policy: dict[str, object], variant_id: int | None = None, key: str | None = None) -> Arm:
    return Arm(checkpoint_id, policy, policy_version(policy_from_spec(policy)), variant_id, key)
