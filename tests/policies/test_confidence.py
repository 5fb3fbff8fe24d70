"""When confidence in the trial answer ends thinking."""

from __future__ import annotations

import math

import pytest

from experiments.policies import Confidence, Exit, ExitReason, Observation, TrialAnswer
from experiments.policies.confidence import trial_confidence
from tests.policies.observations import decide, sure


def logs(*probabilities: float) -> tuple[float, ...]:
    return tuple(math.log(p) for p in probabilities)


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    # By hand for 0.9 and 0.4: the root of their product, their mean, the smaller one.
    [("geometric", 0.6), ("arithmetic", 0.65), ("min", 0.4)],
)
def test_aggregates(aggregate: str, expected: float) -> None:
    assert trial_confidence(logs(0.9, 0.4), aggregate) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("aggregate", ["geometric", "arithmetic", "min"])
def test_no_token_gives_no_confidence(aggregate: str) -> None:
    assert trial_confidence((), aggregate) == 0


@pytest.mark.parametrize("aggregate", ["geometric", "min"])
def test_an_impossible_token_gives_no_confidence(aggregate: str) -> None:
    assert trial_confidence((0.0, -math.inf), aggregate) == 0


def test_confidence_equal_to_the_threshold_is_sure() -> None:
    assert decide(Confidence(threshold=0.5, aggregate="min"), [sure(0.5)]) is not None


def test_confidence_just_below_the_threshold_is_not_sure() -> None:
    assert decide(Confidence(threshold=0.5, aggregate="min"), [sure(math.nextafter(0.5, 0))]) is None


def test_the_aggregate_decides() -> None:
    point = sure(0.99, 0.99, 0.6)
    decisions = {a: decide(Confidence(threshold=0.8, aggregate=a), [point]) for a in ("geometric", "arithmetic", "min")}
    assert [name for name, found in decisions.items() if found] == ["geometric", "arithmetic"]


def test_patience_counts_probes_in_a_row() -> None:
    points = [sure(p) for p in (0.99, 0.99, 0.5, 0.99, 0.99, 0.99)]
    found = decide(Confidence(threshold=0.95, patience=3), points)
    assert found is not None
    assert found[0] == 6


def test_a_probe_without_a_trial_answer_breaks_the_run() -> None:
    points = [sure(0.99), Observation(128), sure(0.99)]
    assert decide(Confidence(patience=2), points) is None


def test_a_trial_answer_without_tokens_is_not_sure() -> None:
    assert decide(Confidence(threshold=0.01), [Observation(64, TrialAnswer(""))]) is None


def test_the_exit_says_where_and_why() -> None:
    found = decide(Confidence(threshold=0.9, patience=2), [sure(0.95, at=12), sure(0.96, at=31)])
    detail = "confidence 0.9600 >= 0.9 at 2 probes in a row (patience 2)"
    assert found == (2, Exit(ExitReason.CONFIDENT, 31, detail))


def test_it_probes_at_every_step_boundary_unless_told_otherwise() -> None:
    assert Confidence().schedule().every is None
    assert Confidence(probe_every=16).schedule().every == 16
