"""Experiments of one use case that run at once."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction

from experiments.assignment import Slice
from experiments.models import Experiment, UseCase
from experiments.services import experiments as service
from experiments.services.declarations import declare
from experiments.services.errors import InvalidInput, WrongState
from experiments.services.routing import load_routing
from tests.service_layer.conftest import make_draft


def in_layer(use_case: UseCase, name: str, low: int, high: int, layer: str = "prompts", **options: Any) -> Experiment:
    """A draft on some buckets of a layer."""
    return declare("ada", make_draft(use_case, name, **options), {"layer": layer, "layer_range": [low, high]})


def test_experiments_on_disjoint_buckets_of_a_layer_run_at_once(use_case: UseCase) -> None:
    lower = service.start("ada", in_layer(use_case, "Lower", 0, 5_000))
    upper = service.start("ada", in_layer(use_case, "Upper", 5_000, 10_000))
    (first, second) = load_routing(1).routes["arithmetic"].experiments
    assert (first.id, first.layer) == (lower.pk, Slice("layer:arithmetic:prompts:", 0, 5_000))
    assert (second.id, second.layer) == (upper.pk, Slice("layer:arithmetic:prompts:", 5_000, 10_000))


def test_overlapping_buckets_are_refused_naming_both(use_case: UseCase) -> None:
    service.start("ada", in_layer(use_case, "Lower", 0, 5_000))
    upper = in_layer(use_case, "Upper", 4_999, 10_000)
    with pytest.raises(WrongState) as caught:
        service.start("ada", upper)
    assert str(caught.value) == (
        "layer_range of 'Upper', [4999, 10000), must not overlap that of the running 'Lower', [0, 5000), "
        "in layer 'prompts'"
    )
    upper.refresh_from_db()
    assert (upper.state, upper.phases.count()) == ("draft", 0)


def test_resuming_needs_its_buckets_too(use_case: UseCase) -> None:
    paused = service.pause("ada", service.start("ada", in_layer(use_case, "First", 0, 5_000)))
    service.start("ada", in_layer(use_case, "Second", 0, 5_000))
    with pytest.raises(WrongState, match=r"'First'.* must not overlap that of the running 'Second'"):
        service.resume("ada", paused)


@pytest.mark.parametrize("layer", ["", "answers"])
def test_another_layer_or_none_runs_alone(use_case: UseCase, layer: str) -> None:
    service.start("ada", in_layer(use_case, "First", 0, 5_000))
    other = in_layer(use_case, "Second", 5_000, 10_000, layer) if layer else make_draft(use_case, "Second")
    with pytest.raises(WrongState, match="runs an experiment, 'First' in layer 'prompts', and 'Second' is in"):
        service.start("ada", other)


def test_units_of_one_layer_are_of_one_type(use_case: UseCase) -> None:
    service.start("ada", in_layer(use_case, "First", 0, 5_000))
    second = in_layer(use_case, "Second", 5_000, 10_000, unit="user")
    with pytest.raises(WrongState, match="'Second' has user and the running 'First' has conversation"):
        service.start("ada", second)


def test_the_same_buckets_of_another_use_case_are_free(use_case: UseCase) -> None:
    other = UseCase.objects.create(slug="other", name="Other", checkpoint=use_case.checkpoint, policy=use_case.policy)
    service.start("ada", in_layer(use_case, "First", 0, 5_000))
    assert service.start("ada", in_layer(other, "Second", 0, 5_000)).state == "running"


def test_the_database_itself_keeps_running_experiments_apart(use_case: UseCase) -> None:
    service.start("ada", in_layer(use_case, "First", 0, 5_000))
    second = in_layer(use_case, "Second", 4_999, 5_001)
    with pytest.raises(IntegrityError, match="running_experiments_are_disjoint"), transaction.atomic():
        Experiment.objects.filter(pk=second.pk).update(state="running")
    assert not connection.needs_rollback


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"layer": "a b"}, "layer", "layer must be at most 40 letters, digits, . - and _, got 'a b'"),
        ({"layer": "x", "layer_range": [5, 5]}, "layer_range", "0 <= low < high <= 10000, got [5, 5]"),
        ({"layer": "x", "layer_range": [-1, 5]}, "layer_range", "0 <= low < high <= 10000, got [-1, 5]"),
        ({"layer": "x", "layer_range": [0, 10_001]}, "layer_range", "got [0, 10001]"),
        ({"layer": "x", "layer_range": [0, 0.5]}, "layer_range", "layer_range must be two whole numbers"),
        ({"layer": "x", "layer_range": None}, "layer_range", "layer_range must be two whole numbers"),
        ({"layer_range": [0, 5]}, "layer_range", "layer_range must be [0, 10000] without a layer, got [0, 5]"),
    ],
)
def test_a_layer_that_is_none_is_refused(draft: Experiment, changes: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        declare("ada", draft, changes)
    assert caught.value.field == field
    assert message in str(caught.value)
