"""Confidence sequences and always-valid p-values beyond the vectors."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.statistics import Interval, sequential
from experiments.statistics.sequential import Alternative

ESTIMATES = st.floats(-1e6, 1e6)
ERRORS = st.floats(1e-6, 1e6)
SIZES = st.floats(1, 1e9)
ALPHAS = st.floats(1e-6, 0.49)
ALTERNATIVES = st.sampled_from(["two-sided", "greater", "less"])


@given(ESTIMATES, ERRORS, SIZES, SIZES, ALPHAS, ALTERNATIVES)
def test_p_value_is_a_probability_and_never_nan(
    estimate: float, se: float, n: float, tuning_n: float, alpha: float, alternative: Alternative
) -> None:
    p = sequential.always_valid_p(estimate, se, n, tuning_n, alpha, alternative=alternative)
    assert 0 < p <= 1


@pytest.mark.parametrize("alternative", ["two-sided", "greater"])
def test_p_value_of_an_enormous_effect_is_tiny_but_not_zero(alternative: Alternative) -> None:
    p = sequential.always_valid_p(1e200, 1e-200, 1e6, 1e3, 0.05, alternative=alternative)
    assert 0 < p < 1e-300


def test_log_p_value_keeps_its_scale_where_p_would_underflow() -> None:
    log_p = sequential.log_always_valid_p(100.0, 1.0, 1e6, 1e3, 0.05)
    assert -5_000 < log_p < -4_980


@given(st.floats(-8, 8), SIZES, SIZES, ALPHAS)
def test_two_sided_p_is_at_most_alpha_exactly_when_zero_is_outside(
    z: float, n: float, tuning_n: float, alpha: float
) -> None:
    p = sequential.always_valid_p(z, 1.0, n, tuning_n, alpha)
    outside = abs(z) > sequential.multiplier(n, tuning_n, alpha)
    assert (p <= alpha) == outside or math.isclose(p, alpha, rel_tol=1e-9)


@given(st.floats(-8, 8), SIZES, SIZES, ALPHAS)
def test_one_sided_p_is_at_most_alpha_exactly_when_the_bound_excludes_the_null(
    z: float, n: float, tuning_n: float, alpha: float
) -> None:
    p = sequential.always_valid_p(z, 1.0, n, tuning_n, alpha, alternative="greater")
    outside = sequential.lower_bound(z, 1.0, n, tuning_n, alpha) > 0
    assert (p <= alpha) == outside or math.isclose(p, alpha, rel_tol=1e-9)


@given(ESTIMATES, ERRORS, SIZES, SIZES, ALPHAS)
def test_less_mirrors_greater(estimate: float, se: float, n: float, tuning_n: float, alpha: float) -> None:
    args = (se, n, tuning_n, alpha)
    assert sequential.always_valid_p(estimate, *args, alternative="less") == sequential.always_valid_p(
        -estimate, *args, alternative="greater"
    )


@given(ESTIMATES, ERRORS, SIZES, SIZES, ALPHAS)
def test_interval_contains_the_estimate(estimate: float, se: float, n: float, tuning_n: float, alpha: float) -> None:
    assert estimate in sequential.confidence_sequence(estimate, se, n, tuning_n, alpha)


@given(st.floats(10, 1e7), st.floats(1.1, 50), SIZES, ALPHAS)
def test_interval_shrinks_with_data(n: float, factor: float, tuning_n: float, alpha: float) -> None:
    """At a standard error of sd / sqrt(n)."""
    few = sequential.multiplier(n, tuning_n, alpha) / math.sqrt(n)
    many = sequential.multiplier(n * factor, tuning_n, alpha) / math.sqrt(n * factor)
    assert many < few


def test_the_sequence_is_about_tightest_at_the_tuning_size() -> None:
    """In standard errors, against tuning for ten times fewer and more units."""
    at = [sequential.multiplier(1_000, tuning_n, 0.05) for tuning_n in (100, 1_000, 10_000)]
    assert at[1] == min(at)


def test_the_sequence_is_wider_than_a_fixed_interval() -> None:
    assert all(sequential.multiplier(n, 1_000, 0.05) > 1.96 for n in (2, 100, 1_000, 10**6))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"se": 0.0}, "se must be > 0, got 0.0"),
        ({"n": 0}, "n must be > 0, got 0"),
        ({"tuning_n": -1}, "tuning_n must be > 0, got -1"),
        ({"alpha": 5}, r"alpha must be in \(0, 1\), got 5"),
        ({"estimate": math.nan}, "estimate must be finite, got nan"),
    ],
)
def test_bad_input_is_refused(change: dict[str, Any], message: str) -> None:
    args = {"estimate": 0.0, "se": 1.0, "n": 10, "tuning_n": 10, "alpha": 0.05} | change
    with pytest.raises(ValueError, match=message):
        sequential.confidence_sequence(**args)


def test_a_one_sided_alpha_of_a_half_is_refused() -> None:
    with pytest.raises(ValueError, match=r"alpha must be in \(0, 0.5\), got 0.5"):
        sequential.lower_bound(0.0, 1.0, 10, 10, 0.5)


@given(
    estimate=st.floats(1e-3, 1e6),
    relative=st.floats(1e-6, 0.5),
    factor=st.floats(1e-3, 1e3),
    n=st.floats(2, 1e6),
    alpha=st.floats(0.001, 0.5),
)
def test_log_sequence_is_equivariant_and_contains_its_estimate(
    estimate: float, relative: float, factor: float, n: float, alpha: float
) -> None:
    one = sequential.log_confidence_sequence(estimate, relative * estimate, n, 1_000, alpha)
    other = sequential.log_confidence_sequence(factor * estimate, factor * relative * estimate, n, 1_000, alpha)
    if isinstance(one, Interval) and isinstance(other, Interval):
        assert 0 < one.lower <= estimate <= one.upper
        assert (other.lower, other.upper) == pytest.approx((factor * one.lower, factor * one.upper), rel=1e-9)
