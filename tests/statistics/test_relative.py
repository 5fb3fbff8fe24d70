"""Fieller's interval of a relative change."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.statistics import Interval, NotEstimable
from experiments.statistics.relative import delta_standard_error, fieller_interval

MEANS = st.floats(1, 1e5)
ERRORS = st.floats(0.01, 1e5)
MULTIPLIERS = st.floats(0.5, 10)


@given(MEANS, ERRORS, MEANS, ERRORS, MULTIPLIERS)
def test_bounds_contain_the_change_or_are_not_estimable(
    mean_c: float, se_c: float, mean_t: float, se_t: float, multiplier: float
) -> None:
    result = fieller_interval(mean_c, se_c**2, mean_t, se_t**2, multiplier, 0.95)
    if isinstance(result, Interval):
        assert mean_t / mean_c - 1 in result
    else:
        assert multiplier * se_c >= mean_c * (1 - 1e-9)


@given(MEANS, st.floats(0.001, 0.2), MEANS, st.floats(0.001, 0.2), st.floats(0.01, 100))
def test_bounds_do_not_change_with_the_unit_of_tokens(
    mean_c: float, cv_c: float, mean_t: float, cv_t: float, scale: float
) -> None:
    plain = fieller_interval(mean_c, (mean_c * cv_c) ** 2, mean_t, (mean_t * cv_t) ** 2, 2.0, 0.95)
    mean_c, mean_t = mean_c * scale, mean_t * scale
    scaled = fieller_interval(mean_c, (mean_c * cv_c) ** 2, mean_t, (mean_t * cv_t) ** 2, 2.0, 0.95)
    assert isinstance(plain, Interval)
    assert isinstance(scaled, Interval)
    assert (scaled.lower, scaled.upper) == pytest.approx((plain.lower, plain.upper), rel=1e-6, abs=1e-9)


@given(MEANS, st.floats(0.001, 0.1), MEANS, st.floats(0.001, 0.1))
def test_each_bound_is_where_the_contrast_is_at_the_critical_value(
    mean_c: float, cv_c: float, mean_t: float, cv_t: float
) -> None:
    """The defining property: |m_t - R m_c| = c SE(R) at both bounds."""
    v_c, v_t, c = (mean_c * cv_c) ** 2, (mean_t * cv_t) ** 2, 2.5
    interval = fieller_interval(mean_c, v_c, mean_t, v_t, c, 0.95)
    assert isinstance(interval, Interval)
    for bound in (interval.lower, interval.upper):
        r = 1 + bound
        z = (mean_t - r * mean_c) / math.sqrt(v_t + r * r * v_c)
        assert abs(z) == pytest.approx(c, rel=1e-5)


def test_a_control_close_to_zero_is_not_estimable() -> None:
    result = fieller_interval(10.0, 100.0, 5.0, 1.0, 1.96, 0.95)
    assert result == NotEstimable(
        "the control's mean is 1.00 standard errors from zero, a bounded interval needs more than 1.96"
    )


def test_a_control_without_tokens_is_not_estimable() -> None:
    assert isinstance(fieller_interval(0.0, 0.0, 5.0, 1.0, 1.96, 0.95), NotEstimable)


def test_small_errors_give_the_delta_interval() -> None:
    interval = fieller_interval(3_000.0, 1.0, 2_000.0, 1.0, 1.96, 0.95)
    se = delta_standard_error(3_000.0, 1.0, 2_000.0, 1.0)
    assert isinstance(interval, Interval)
    assert (interval.upper - interval.lower) / 2 == pytest.approx(1.96 * se, rel=1e-5)


def test_a_negative_variance_is_refused() -> None:
    with pytest.raises(ValueError, match=r"variance_control must be >= 0, got -1.0"):
        fieller_interval(10.0, -1.0, 5.0, 1.0, 1.96, 0.95)
