"""Means, ratios, CUPED, capping and relative changes: what holds for any data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from experiments.statistics import ClusterAggregate, Estimate, Interval, NotEstimable
from experiments.statistics.cuped import Adjusted, cuped_difference
from experiments.statistics.means import MeanTest, welch_difference
from experiments.statistics.moments import UnitMoments
from experiments.statistics.ratios import RatioContrast, ratio, ratio_contrast
from experiments.statistics.relative import relative_change
from experiments.statistics.winsorising import cap_at, winsorise
from tests.statistics.builders import from_summary

TOKENS = st.lists(st.integers(1, 10_000), min_size=3, max_size=30).filter(lambda values: len(set(values)) > 1)


def interval(estimate: object) -> Interval:
    assert isinstance(estimate, Estimate)
    assert isinstance(estimate.interval, Interval)
    return estimate.interval


@given(TOKENS, TOKENS)
def test_welch_agrees_with_scipy(a: list[int], b: list[int]) -> None:
    test = welch_difference(ClusterAggregate.from_values(a), ClusterAggregate.from_values(b), 0.95)
    assert isinstance(test, MeanTest)
    expected = stats.ttest_ind(b, a, equal_var=False)
    assert (test.statistic, test.p_value) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-6, abs=1e-12)


def test_a_tiny_p_value_does_not_underflow_to_zero() -> None:
    test = welch_difference(from_summary(1000, 100, 1), from_summary(1000, 98, 1), 0.95)
    assert isinstance(test, MeanTest)
    assert 0 < test.p_value < 1e-100


@given(TOKENS, TOKENS, st.integers(2, 50))
def test_a_mean_difference_scales_with_its_unit(a: list[int], b: list[int], factor: int) -> None:
    small = welch_difference(ClusterAggregate.from_values(a), ClusterAggregate.from_values(b), 0.9)
    large = welch_difference(
        ClusterAggregate.from_values(np.array(a) * factor), ClusterAggregate.from_values(np.array(b) * factor), 0.9
    )
    assert isinstance(small, MeanTest)
    assert isinstance(large, MeanTest)
    assert interval(large.estimate).lower == pytest.approx(factor * interval(small.estimate).lower, rel=1e-6, abs=1e-6)


def test_an_interval_shrinks_with_more_data() -> None:
    few, many = (
        interval(relative_change(from_summary(n, 100, 50), from_summary(n, 80, 50), 0.95)) for n in (100, 10_000)
    )
    assert many.upper - many.lower < (few.upper - few.lower) / 5


@pytest.mark.parametrize("method", ["fieller", "delta", "log_delta"])
def test_a_relative_change_does_not_depend_on_the_unit(method: str) -> None:
    pair = [
        interval(relative_change(from_summary(50, m, m), from_summary(50, 0.7 * m, m), 0.95, method))  # type: ignore[arg-type]
        for m in (1.0, 3_000.0)
    ]
    assert (pair[0].lower, pair[0].upper) == pytest.approx((pair[1].lower, pair[1].upper))


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ValueError, match="method must be fieller, delta or log_delta, got 'magic'"):
        relative_change(from_summary(9, 1, 1), from_summary(9, 1, 1), 0.95, "magic")  # type: ignore[arg-type]


def test_a_mean_without_variation_is_not_estimable() -> None:
    flat = ClusterAggregate.from_values([5, 5, 5])
    assert isinstance(welch_difference(flat, flat, 0.95), NotEstimable)


def moments(rows: object, columns: tuple[str, ...] = ("t", "c")) -> UnitMoments:
    return UnitMoments.from_totals(columns, np.array(rows))


def test_tokens_per_correct_answer_is_a_ratio_of_totals() -> None:
    found = ratio(moments([(100, 1), (300, 2), (200, 1), (250, 2)]), ("t",), ("c",), 0.95, 1_000)
    assert isinstance(found, Estimate)
    assert found.value == pytest.approx(850 / 6)


def test_without_a_correct_answer_there_are_no_tokens_per_correct_answer() -> None:
    found = ratio_contrast(moments([(100, 1), (90, 1)]), moments([(100, 0), (90, 0)]), ("t",), ("c",), 0.95, 1_000)
    assert found == NotEstimable("the denominator (c) must be > 0, got 0")


def test_a_denominator_near_zero_is_said_to_be() -> None:
    rows = [(100, 1)] + [(100, 0)] * 30
    assert "standard errors from zero" in getattr(ratio(moments(rows), ("t",), ("c",), 0.95, 1_000), "reason", "")


def test_equal_arms_have_no_relative_change_of_a_ratio() -> None:
    side = moments([(100, 1), (300, 2), (200, 1), (250, 2)])
    found = ratio_contrast(side, side, ("t",), ("c",), 0.95, 1_000)
    assert isinstance(found, RatioContrast)
    assert (found.difference.value, found.p_value) == (0.0, 1.0)
    assert 0.0 in interval(found.relative_change)


def test_a_covariate_that_explains_half_of_the_variance_halves_it() -> None:
    rng = np.random.default_rng(5)
    sides = []
    for _ in range(2):
        x = rng.integers(0, 1000, 4_000)
        y = x + rng.permutation(rng.integers(0, 1000, 4_000))
        sides.append(moments(np.stack((y, np.ones_like(x), x), axis=1), ("y", "n", "x")))
    found = cuped_difference(sides[0], sides[1], ("y",), "n", "x", 0.95)
    assert isinstance(found, Adjusted)
    assert found.variance_reduction == pytest.approx(0.5, abs=0.03)
    assert found.theta == pytest.approx(1.0, abs=0.05)


def test_a_covariate_without_variation_adjusts_nothing() -> None:
    side = moments([(5, 1, 7), (6, 1, 7), (9, 1, 7)], ("y", "n", "x"))
    found = cuped_difference(side, side, ("y",), "n", "x", 0.95)
    assert found == NotEstimable("the covariate does not vary within the arms")


def test_both_arms_are_capped_alike() -> None:
    capped = winsorise([1, 2, 3, 4, 100], [1, 2, 3, 4, 5], 0.9)
    assert capped.control.max() == capped.cap
    assert (capped.share_control, capped.share_treatment) == (0.2, 0.0)


def test_a_cap_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="cap must be > 0, got 0"):
        cap_at([1.0], [1.0], 0)
