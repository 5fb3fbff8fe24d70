"""The exact e-process: valid by enumeration, the same however it is fed, and with power."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from experiments.statistics import Interval, codec
from experiments.statistics.safe_proportions import SafeDifference, _log_factors

PASTS = [(0, 0, 0, 0), (10, 10, 10, 10), (10, 10, 10, 8), (1000, 1000, 1000, 950), (50, 20, 3, 3)]


def feed(state: SafeDifference, control: str, treatment: str) -> SafeDifference:
    """Outcomes by turns: "10" is a success and a failure."""
    pairs = [(arm, int(mark)) for both in zip(control, treatment, strict=True) for arm, mark in enumerate(both)]
    return state.advance([arm for arm, _ in pairs], [mark for _, mark in pairs])


def outcomes(seed: int, n: int, control: float, treatment: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    arms = rng.integers(0, 2, n)
    return arms, (rng.random(n) < np.where(arms == 1, treatment, control)).astype(int)


@pytest.mark.parametrize("past", PASTS)
@pytest.mark.parametrize("sizes", [(1, 1), (5, 5), (3, 8), (10, 2)])
@pytest.mark.parametrize("null", [-0.5, -0.05, -0.02, 0.1])
def test_no_null_makes_a_factor_above_one_on_average(
    past: tuple[int, ...], sizes: tuple[int, int], null: float
) -> None:
    """By enumeration of all outcomes, the corner (control at 1, loss at the margin) included."""
    low, high = max(0.0, -null), min(1.0, 1.0 - null)
    for control in np.linspace(low, high, 7):
        for further in (0.0, 0.03):
            for sign, row in ((-1, 0), (1, 1)):
                treatment = control + null + sign * further
                if not 0 <= treatment <= 1:
                    continue
                assert _mean_factor(past, sizes, null, control, treatment)[row] <= 1 + 1e-9


def _mean_factor(
    past: tuple[int, ...], sizes: tuple[int, int], null: float, control: float, treatment: float
) -> np.ndarray:
    total = np.zeros(2)
    for a in range(sizes[0] + 1):
        for b in range(sizes[1] + 1):
            weight = stats.binom.pmf(a, sizes[0], control) * stats.binom.pmf(b, sizes[1], treatment)
            block = np.array((sizes[0], a, sizes[1], b))
            total += weight * np.exp(_log_factors(np.array([null]), np.array(past), block)[:, 0])
    return total


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), max_size=150), st.lists(st.integers(0, 150)))
def test_it_does_not_matter_over_how_many_looks_the_data_are_spread(
    data: list[tuple[int, int]], cuts: list[int]
) -> None:
    start = SafeDifference.start((-0.05, 0.0, 0.1))
    arms, marks = [arm for arm, _ in data], [mark for _, mark in data]
    state, last = start, 0
    for cut in sorted({*(min(cut, len(data)) for cut in cuts), len(data)}):
        state = state.advance(arms[last:cut], marks[last:cut])
        last = cut
    assert state == start.advance(arms, marks)


def test_the_state_goes_on_exactly_after_it_was_stored() -> None:
    arms, marks = outcomes(1, 500, 0.9, 0.8)
    half = SafeDifference.for_interval(0.05).advance(arms[:250], marks[:250])
    stored = codec.decode(SafeDifference, codec.encode(half))
    assert stored.advance(arms[250:], marks[250:]) == half.advance(arms[250:], marks[250:])


@pytest.mark.parametrize(("control", "margin"), [(1.0, 0.05), (0.9, 0.05), (0.5, 0.1)])
def test_a_loss_of_exactly_the_margin_is_seldom_excluded_at_any_of_100_looks(control: float, margin: float) -> None:
    """At 5 %; the asymptotic sequence excludes it in 6.25 % of the runs where the control is always right."""
    runs, wrong = 150, 0
    for seed in range(runs):
        state = SafeDifference.start((-margin,)).advance(*outcomes(seed, 2_000, control, control - margin))
        wrong += state.p_value(-margin, "greater") <= 0.05
    assert wrong / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_equal_arms_are_told_to_be_within_the_margin() -> None:
    """At .95 and a margin of 5 points most runs decide within 2,000 units."""
    found = sum(
        SafeDifference.start((-0.05,)).advance(*outcomes(seed, 2_000, 0.95, 0.95)).p_value(-0.05, "greater") <= 0.05
        for seed in range(40)
    )
    assert found >= 36


def test_the_interval_holds_the_true_difference_at_all_looks() -> None:
    runs, misses = 100, 0
    for seed in range(runs):
        interval = SafeDifference.for_interval(0.05).advance(*outcomes(seed, 1_000, 0.8, 0.7)).interval(0.95)
        misses += not isinstance(interval, Interval) or not interval.lower - 1e-9 <= -0.1 <= interval.upper + 1e-9
    assert misses / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_a_block_without_one_of_the_arms_says_nothing() -> None:
    state = SafeDifference.start((0.0,)).advance([1] * 40, [1] * 40)
    assert state.log_greater == (0.0,)


def test_bounds_agree_with_the_test_at_the_margin() -> None:
    state = SafeDifference.for_interval(0.05).advance(*outcomes(3, 4_000, 0.9, 0.9))
    assert (state.p_value(-0.05, "greater") <= 0.05) == (state.lower_bound(0.05) >= -0.05)


@pytest.mark.parametrize(
    ("arms", "marks", "message"),
    [
        ([0, 2], [0, 1], "arms must be 0 or 1, got 2"),
        ([0, 1], [0, -1], "successes must be 0 or 1, got -1"),
        ([0, 1], [0], "one equal shape"),
    ],
)
def test_bad_observations_are_refused(arms: list[int], marks: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SafeDifference.start((0.0,)).advance(arms, marks)


def test_a_null_that_was_not_tested_from_the_start_is_refused() -> None:
    with pytest.raises(ValueError, match=r"tested from the start, got 0\.2"):
        SafeDifference.start((0.0,)).p_value(0.2, "greater")


def test_a_margin_of_three_is_refused() -> None:
    with pytest.raises(ValueError, match=r"margin must be in \(0, 1\), got 3"):
        SafeDifference.for_interval(3)
