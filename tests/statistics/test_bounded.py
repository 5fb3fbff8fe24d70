"""Sequences for bounded metrics and group-sequential boundaries."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from experiments.statistics import codec
from experiments.statistics.bounded import EmpiricalBernstein, HedgedCapital
from experiments.statistics.group_sequential import GroupSequentialPlan, obrien_fleming

KINDS: list[Any] = [EmpiricalBernstein, HedgedCapital]
VALUES = st.lists(st.floats(0, 1), max_size=60)


@pytest.mark.parametrize("kind", KINDS)
@given(values=VALUES, cut=st.integers(0, 60))
def test_it_does_not_matter_over_how_many_looks_the_data_are_spread(kind: Any, values: list[float], cut: int) -> None:
    assert kind(0.05).advance(values[:cut]).advance(values[cut:]) == kind(0.05).advance(values)


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_goes_on_exactly_after_it_was_stored(kind: Any) -> None:
    x = np.random.default_rng(1).random(200)
    half = kind(0.05).advance(x[:100])
    assert codec.decode(kind, codec.encode(half)).advance(x[100:]) == half.advance(x[100:])


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_is_seldom_excluded_at_any_time(kind: Any) -> None:
    """Nominal 5 % over 400 observations of a skewed metric."""
    runs, misses = 100, 0
    for seed in range(runs):
        x = np.random.default_rng(seed).beta(0.3, 0.7, 400)
        interval = kind(0.05).advance(x).interval
        misses += not interval.lower <= 0.3 <= interval.upper
    assert misses / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_betting_is_narrower_than_empirical_bernstein() -> None:
    x = np.random.default_rng(2).beta(5, 95, 1_000)
    widths = [kind(0.05).advance(x).interval for kind in KINDS]
    assert widths[1].upper - widths[1].lower < widths[0].upper - widths[0].lower


@pytest.mark.parametrize("kind", KINDS)
def test_values_outside_the_bounds_are_refused(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"values must be in \[0, 1\], got 1\.5"):
        kind(0.05).advance([0.5, 1.5])


def test_looking_at_other_times_than_planned_keeps_alpha() -> None:
    """Brownian motion under the null, boundaries for the looks that were really taken."""
    looked, plan, runs = (0.3, 0.45, 0.9, 1.0), GroupSequentialPlan((0.25, 0.5, 0.75, 1.0)), 20_000
    steps = np.sqrt(np.diff((0.0, *looked)))
    z = np.cumsum(np.random.default_rng(3).normal(size=(runs, 4)) * steps, axis=1) / np.sqrt(looked)
    rejected = (np.abs(z) >= np.array(plan.boundaries_at(looked))).any(axis=1).mean()
    assert rejected == pytest.approx(0.05, abs=3 * math.sqrt(0.05 * 0.95 / runs))


def test_a_single_look_is_the_fixed_test() -> None:
    assert GroupSequentialPlan((1.0,)).boundaries()[0] == pytest.approx(stats.norm.isf(0.025), abs=1e-6)
    assert obrien_fleming(1, 0.05, two_sided=False)[0] == pytest.approx(stats.norm.isf(0.05), abs=1e-6)


def test_pocock_spends_earlier_than_obrien_fleming() -> None:
    times = (0.25, 0.5, 1.0)
    early, late = (GroupSequentialPlan(times, spending=kind).boundaries() for kind in ("pocock", "obrien_fleming"))
    assert early[0] < late[0]
    assert early[-1] > late[-1]


def test_a_plan_rejects_beyond_its_boundary_only() -> None:
    plan = GroupSequentialPlan((0.5, 1.0))
    first, _ = plan.boundaries()
    assert plan.rejects([first + 0.01], [0.5])
    assert not plan.rejects([first - 0.01], [0.5])


@pytest.mark.parametrize(
    ("information", "message"),
    [((0.5, 0.4, 1.0), r"information\[1\] must be in \(0.5, 1\], got 0.4"), ((0.5,), "information must end at 1")],
)
def test_bad_information_is_refused(information: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GroupSequentialPlan(information)


def test_looks_close_together_are_crossed_as_often_as_declared() -> None:
    """Three looks on the heels of another: with too few nodes the last boundary was crossed .5 % of the time."""
    looked, runs = (0.5, 0.5001, 0.5002, 0.5003, 1.0), 40_000
    bounds = np.array(GroupSequentialPlan((0.5, 1.0)).boundaries_at(looked))
    steps = np.random.default_rng(4).normal(size=(runs, 5)) * np.sqrt(np.diff((0.0, *looked)))
    crossed = (np.abs(np.cumsum(steps, axis=1) / np.sqrt(looked)) >= bounds).any(axis=1).mean()
    assert crossed == pytest.approx(0.05, abs=3 * math.sqrt(0.05 * 0.95 / runs))


def test_the_boundary_does_not_jump_where_a_look_is_repeated_a_little_later() -> None:
    plan = GroupSequentialPlan((0.5, 1.0))
    assert plan.boundaries_at((0.5, 0.50006, 1.0))[-1] == pytest.approx(plan.boundaries()[-1], abs=1e-4)


def test_looks_that_cannot_be_told_apart_are_refused() -> None:
    with pytest.raises(ValueError, match=r"information\[1\] must be at least 0.01% above .* 0.50005, got 0.50001"):
        GroupSequentialPlan((0.5, 1.0)).boundaries_at((0.5, 0.50001, 1.0))
