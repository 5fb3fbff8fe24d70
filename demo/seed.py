"""Registering what the demo needs, through the same services that pages and API use."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from django.contrib.auth import get_user_model

from demo.scenario import FULL, MODEL_PROFILE, DemoExperiment
from demo.tiny_reasoner.checkpoints import read_index
from experiments.models import Admission, Checkpoint, Completion, Experiment, ModelProfile, Snapshot, UseCase
from experiments.services.declarations import declare
from experiments.services.experiments import VariantSpec, create_experiment, start, stop
from experiments.services.registry import (
    issue_api_key,
    register_checkpoint,
    register_model,
    register_use_case,
    revoke_api_key,
)
from experiments.services.roles import grant_role
from experiments.statistics.design import SMALLEST_TUNING_N

ACTOR = "demo"
DEADLINE_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class SeededExperiment:
    """A started demo experiment and the key whose requests go to its use case."""

    scenario: DemoExperiment
    experiment: Experiment
    token: str


@dataclass(frozen=True, slots=True)
class Seeded:
    """What the demo registered."""

    experiments: tuple[SeededExperiment, ...]
    user: str
    password: str


def seed(scenarios: Sequence[DemoExperiment]) -> Seeded:
    """Register model, checkpoints, use cases, keys and a login; create and start the experiments.

    A second run registers nothing twice: it stops the experiments of the first and starts new ones.
    """
    model = register_model(ACTOR, **MODEL_PROFILE)
    checkpoints = _checkpoints(model)
    password = secrets.token_urlsafe(12)
    user, _ = get_user_model().objects.get_or_create(username="demo")
    user.set_password(password)
    user.save()
    grant_role(ACTOR, "demo", "owner")
    return Seeded(tuple(_experiment(s, checkpoints) for s in scenarios), "demo", password)


def _checkpoints(model: ModelProfile) -> dict[int | None, Checkpoint]:
    """The shipped checkpoints by step; the last also under None."""
    by_step: dict[int | None, Checkpoint] = {}
    for entry in read_index():
        # Relative to the installation, so that a checkout can be moved.
        path = f"demo/checkpoints/{entry.path.name}"
        by_step[entry.step] = by_step[None] = register_checkpoint(ACTOR, model, entry.path.name, path, entry.step)
    return by_step


def _experiment(scenario: DemoExperiment, checkpoints: dict[int | None, Checkpoint]) -> SeededExperiment:
    use_case = register_use_case(
        ACTOR,
        scenario.use_case,
        name=scenario.use_case_name,
        policy=FULL,
        checkpoint=checkpoints[None],
        margin=scenario.margin,
        min_saving=scenario.min_saving,
        deadline_seconds=DEADLINE_SECONDS,
    )
    _retire_earlier(use_case)
    key = issue_api_key(ACTOR, f"demo key of {scenario.use_case}", use_case, ["serve", "label", "manage"])
    variants = [
        VariantSpec(arm.key, arm.policy, checkpoints[arm.step], arm.weight, is_control=number == 0)
        for number, arm in enumerate(scenario.arms)
    ]
    experiment = create_experiment(
        ACTOR,
        use_case,
        scenario.name,
        variants,
        hypothesis=scenario.hypothesis,
        margin=scenario.margin,
        min_saving=scenario.min_saving,
        maximum_units=scenario.requests,
        tuning_units=max(SMALLEST_TUNING_N, 2 * scenario.requests // len(scenario.arms)),
        salt=scenario.salt,
    )
    # Each arm gets its whole sample, so that its figures can be held against the published ones.
    declare(ACTOR, experiment, {"automatic": False})
    return SeededExperiment(scenario, start(ACTOR, experiment), key.token)


def _retire_earlier(use_case: UseCase) -> None:
    unfinished = (Experiment.State.RUNNING, Experiment.State.PAUSED)
    for experiment in use_case.experiments.filter(state__in=unfinished):
        stop(ACTOR, experiment, Experiment.Conclusion.INCONCLUSIVE, "a new demo run takes its place")
    for key in use_case.api_keys.filter(revoked_at=None, name__startswith="demo key"):
        revoke_api_key(ACTOR, key)


def all_stored(demo: SeededExperiment) -> bool:
    """Whether every admission is stored, and every one of them has its completion."""
    admitted = Admission.objects.filter(phase__experiment=demo.experiment).values_list("pk", flat=True)
    return len(admitted) == demo.scenario.requests == Completion.objects.filter(pk__in=admitted).count()


def newest_look(demo: SeededExperiment) -> int | None:
    """Id of the newest snapshot, or None."""
    row = Snapshot.objects.filter(phase__experiment=demo.experiment).first()
    return row.pk if row else None


def is_looked_at_since(demo: SeededExperiment, before: int | None) -> bool:
    """Whether a snapshot newer than ``before`` is stored."""
    return newest_look(demo) != before


def ask_for_look(demo: SeededExperiment) -> None:
    """Have a background worker look at the experiment."""
    from workers.tasks.looks import take_look

    take_look.delay(demo.experiment.pk)
