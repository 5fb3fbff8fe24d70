"""When confidence that no longer rises ends thinking."""

from __future__ import annotations

import pytest

from experiments.policies import ExitReason, Observation, Plateau
from tests.policies.observations import decide, sure


def exit_number(policy: Plateau, *confidences: float) -> int | None:
    found = decide(policy, [sure(confidence) for confidence in confidences])
    return found[0] if found else None


@pytest.mark.parametrize("patience", [1, 2, 5])
def test_exits_after_patience_probes_without_a_gain(patience: int) -> None:
    assert exit_number(Plateau(patience=patience), *[0.5] * 8) == 1 + patience


def test_a_gain_above_delta_starts_the_count_again() -> None:
    assert exit_number(Plateau(patience=2, delta=0.1), 0.5, 0.5, 0.7, 0.7, 0.7) == 5


def test_a_gain_of_delta_is_none() -> None:
    assert exit_number(Plateau(patience=2, delta=0.25), 0.5, 0.75, 0.75) == 3


def test_gains_are_measured_from_the_best_not_from_the_last() -> None:
    assert exit_number(Plateau(patience=3, delta=0.05), 0.8, 0.3, 0.5, 0.7, 0.9) == 4


def test_a_trial_without_an_answer_neither_gains_nor_counts() -> None:
    points = [sure(0.5), Observation(64), sure(), sure(0.5)]
    found = decide(Plateau(patience=1), points)
    assert found is not None
    assert found[0] == 4


def test_the_exit_says_where_and_why() -> None:
    found = decide(Plateau(patience=1), [sure(0.5, at=10), sure(0.5, at=20)])
    assert found is not None
    assert (found[1].reason, found[1].decision_step) == (ExitReason.PLATEAU, 20)
    assert found[1].detail == "no gain above 0.01 over confidence 0.5000 at 1 probes in a row (patience 1)"
