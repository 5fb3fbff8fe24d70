"""People, a use case, experiments and stored looks for the tests of the pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from experiments.models import Checkpoint, Experiment, ModelProfile, Snapshot, UseCase
from experiments.services import experiments as service
from experiments.services.roles import grant_role
from experiments.statistics.aggregates import ClusterAggregate
from experiments.statistics.arms import ArmAggregates, Outcomes, TokenMeans
from experiments.statistics.design import Design
from experiments.statistics.snapshot import LookInputs, analyse

FULL = {"name": "full"}
CONSERVATIVE = {"name": "confidence", "parameters": {"threshold": 0.95, "patience": 2, "probe_every": 32}}
AGGRESSIVE = {"name": "answer_convergence", "parameters": {"patience": 2, "probe_every": 32}}
PASSWORD = "a long enough phrase"

StoreLook = Callable[..., Snapshot]


@pytest.fixture
def person(db: None) -> User:
    """Somebody who may do everything on the pages."""
    user = User.objects.create_user("ada", password=PASSWORD)
    grant_role("test", "ada", "owner")
    return user


@pytest.fixture
def pages(client: Client, person: User) -> Client:
    """A client that has logged in."""
    client.force_login(person)
    return client


@pytest.fixture
def use_case(db: None) -> UseCase:
    """A use case with a margin of 5 points and a minimum saving of 20 percent."""
    return make_use_case("arithmetic")


@pytest.fixture
def draft(use_case: UseCase) -> Experiment:
    """An experiment that has not started: full against conservative and aggressive."""
    return make_experiment(use_case)


@pytest.fixture
def running(draft: Experiment) -> Experiment:
    """The same, started."""
    return service.start("ada", draft)


def make_use_case(slug: str) -> UseCase:
    """A use case with its own model and checkpoint."""
    model = ModelProfile.objects.create(name=f"model-of-{slug}", max_context_tokens=1024)
    checkpoint = Checkpoint.objects.create(model=model, name="last", path="/nowhere", step=1000)
    return UseCase.objects.create(
        slug=slug, name=slug.title(), checkpoint=checkpoint, policy=FULL, margin=0.05, min_saving=0.2
    )


def make_experiment(use_case: UseCase, name: str = "Early exit", **options: Any) -> Experiment:
    """A draft with three arms."""
    specs = (("full", FULL, 0.4), ("conservative", CONSERVATIVE, 0.3), ("aggressive", AGGRESSIVE, 0.3))
    variants = [
        service.VariantSpec(key, policy, use_case.checkpoint, weight, is_control=key == "full")
        for key, policy, weight in specs
    ]
    return service.create_experiment("ada", use_case, name, variants, **options)


def arm(key: str, units: int, correct: int | None, tokens: float) -> ArmAggregates:
    """An arm of one request per unit; ``correct`` None: no labels. Standard deviation of tokens: 50."""
    total = units * tokens
    squares = units * (tokens**2 + 50**2)
    of_tokens = ClusterAggregate(units, units, total, squares, units, total)
    labels = None if correct is None else ClusterAggregate(units, units, correct, correct, units, correct)
    return ArmAggregates(
        key=key,
        exposures=units,
        em=labels,
        decoded_tokens=of_tokens,
        tokens_without_probes=of_tokens,
        completions=units,
        labelled_completions=0 if correct is None else units,
        outcomes=Outcomes(answered=units - 3, error=1, timeout=2),
        token_means=TokenMeans(thinking=tokens - 8, answer=8, probe=0, overrun=0),
    )


@pytest.fixture
def store_look() -> StoreLook:
    """Stores a real look at a running experiment's phase."""

    def store(experiment: Experiment, *, labelled: bool = True, units: int = 600) -> Snapshot:
        phase = experiment.phase
        assert phase is not None
        design = Design("full", phase.weights, experiment.margin, experiment.min_saving, tuning_n=units)

        def correct(share: float) -> int | None:
            return round(share * units) if labelled else None

        arms = (
            arm("full", units, correct(0.98), 270),
            arm("conservative", units, correct(0.98), 150),
            arm("aggressive", units, correct(0.80), 100),
        )
        data = analyse(LookInputs(design, arms)).to_dict()
        return Snapshot.objects.create(phase=phase, taken_at=timezone.now(), data=data)

    return store
