"""Asymptotic confidence sequences and always-valid p-values.

Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and asymptotic confidence
sequences" (Annals of Statistics 2024; arXiv 2103.06476). Equation numbers are those of arXiv version 7.

All functions take an estimate with its standard error at the present look. For a difference of two arms N is
the number of units of both arms together and the variance per unit is SE² N, as GrowthBook does. The
guarantee is asymptotic: it holds for every look together as the first look's sample grows.
"""

from __future__ import annotations

import math
import sys
from typing import Literal

from experiments.statistics import checks
from experiments.statistics.results import Interval, NotEstimable

_WIDEST_LOG = math.log(1e6)

Alternative = Literal["two-sided", "greater", "less"]


def mixing_rho(tuning_n: float, alpha: float, *, one_sided: bool = False) -> float:
    """The mixture's rho that makes the sequence about tightest at N = `tuning_n` (eq. 161; one-sided at 2
    alpha).

    Args:
        tuning_n: N*, in units of both arms, > 0.
        alpha: error probability over all looks, in (0, 1), or (0, .5) when one-sided.
        one_sided: for a one-sided bound.
    """
    checks.positive("tuning_n", tuning_n)
    checks.fraction("alpha", alpha, high=0.5 if one_sided else 1.0)
    log_term = -2 * math.log(2 * alpha if one_sided else alpha)
    return math.sqrt((log_term + math.log1p(log_term)) / tuning_n)


def multiplier(n: float, tuning_n: float, alpha: float, *, one_sided: bool = False) -> float:
    """Half width of the sequence in standard errors at N = `n` (eq. 9; one-sided eq. 134).

    It takes the place of 1.96: whatever inverts a z test at this multiplier is valid at every look.
    """
    checks.positive("n", n)
    rho = mixing_rho(tuning_n, alpha, one_sided=one_sided)
    information = n * rho * rho
    root = math.sqrt(information + 1)
    log_term = math.log1p(root / (2 * alpha)) if one_sided else math.log(root / alpha)
    return math.sqrt(2 * (information + 1) / information * log_term)


def confidence_sequence(estimate: float, se: float, n: float, tuning_n: float, alpha: float) -> Interval:
    """The two-sided sequence at this look, with coverage 1 - alpha over all looks (eq. 9).

    Args:
        estimate: point estimate.
        se: its standard error, > 0, same units.
        n: units behind it, > 0.
        tuning_n: N*, > 0.
        alpha: in (0, 1).
    """
    checks.finite("estimate", estimate)
    half = multiplier(n, tuning_n, alpha) * checks.positive("se", se)
    return Interval(estimate - half, estimate + half, 1 - alpha)


def log_confidence_sequence(
    estimate: float, se: float, n: float, tuning_n: float, alpha: float
) -> Interval | NotEstimable:
    """The two-sided sequence of log(estimate), carried back: of a mean or a ratio of values >= 0.

    By the delta method log(estimate) has the standard error se / estimate, and eq. 9 holds for any estimate that is
    linear in the units but for a remainder that vanishes.

    Args:
        estimate: >= 0.
        se: its standard error, >= 0, same units.
        n: units behind it, > 0.
        tuning_n: N*, > 0.
        alpha: in (0, 1).

    Returns:
        The interval; of length 0 with se = 0; or NotEstimable where it would reach over a factor of a million.
    """
    checks.non_negative("estimate", estimate)
    width = multiplier(n, tuning_n, alpha)
    if checks.non_negative("se", se) == 0:
        return Interval(estimate, estimate, 1 - alpha)
    # With se > 0 the estimate is above 0: values >= 0 that vary have a mean above 0.
    relative = width * se / checks.positive("estimate", estimate)
    if relative > _WIDEST_LOG:
        return NotEstimable(
            f"{width:.1f} standard errors of {se:.4g} around {estimate:.4g} bound it to no useful range"
        )
    return Interval(estimate * math.exp(-relative), estimate * math.exp(relative), 1 - alpha)


def lower_bound(estimate: float, se: float, n: float, tuning_n: float, alpha: float) -> float:
    """One-sided lower bound that holds at every look with probability 1 - alpha (eq. 134)."""
    checks.finite("estimate", estimate)
    return estimate - multiplier(n, tuning_n, alpha, one_sided=True) * checks.positive("se", se)


def upper_bound(estimate: float, se: float, n: float, tuning_n: float, alpha: float) -> float:
    """One-sided upper bound that holds at every look with probability 1 - alpha (eq. 134)."""
    return -lower_bound(-estimate, se, n, tuning_n, alpha)


def log_always_valid_p(
    estimate: float,
    se: float,
    n: float,
    tuning_n: float,
    alpha: float,
    *,
    null: float = 0.0,
    alternative: Alternative = "two-sided",
) -> float:
    """Natural logarithm of the always-valid p-value, <= 0 and never NaN; see `always_valid_p`."""
    if alternative not in ("two-sided", "greater", "less"):
        raise ValueError(f"alternative must be two-sided, greater or less, got {alternative!r}")
    checks.finite("estimate", estimate)
    checks.finite("null", null)
    checks.positive("n", n)
    z = (estimate - null) / checks.positive("se", se)
    one_sided = alternative != "two-sided"
    rho = mixing_rho(tuning_n, alpha, one_sided=one_sided)
    information = n * rho * rho
    exponent = z * z / 2 * (information / (information + 1))
    half_log = math.log1p(information) / 2
    if not one_sided:
        return min(0.0, half_log - exponent)
    if (z if alternative == "greater" else -z) <= 0 or exponent == 0:
        return 0.0
    return min(0.0, half_log - math.log(2) - _log_expm1(exponent))


def always_valid_p(
    estimate: float,
    se: float,
    n: float,
    tuning_n: float,
    alpha: float,
    *,
    null: float = 0.0,
    alternative: Alternative = "two-sided",
) -> float:
    """p-value that may be compared with any level at any look: the inverse of the sequence at a fixed rho.

    Two-sided it is min(1, 1/E) with the normal mixture's E (eq. 155); one-sided the inverse of eq. 134. rho
    is that of the design's `alpha`; it must be the same at all looks. It is <= alpha exactly when the
    sequence (or the bound) at `alpha` excludes the null.

    Args:
        estimate: point estimate.
        se: its standard error, > 0.
        n: units behind it, > 0.
        tuning_n: N*, > 0.
        alpha: the level that rho is tuned for, in (0, 1), one-sided in (0, .5).
        null: the hypothesised value; one-sided it is the boundary of the null.
        alternative: "greater" rejects for estimates above the null, "less" below it.

    Returns:
        A p-value in (0, 1]: the smallest normal double stands for anything smaller.
    """
    log_p = log_always_valid_p(estimate, se, n, tuning_n, alpha, null=null, alternative=alternative)
    return max(math.exp(log_p), sys.float_info.min)


def _log_expm1(x: float) -> float:
    """log(e^x - 1) for x > 0, without overflow for large x or cancellation for small x."""
    return math.log(math.expm1(x)) if x < 1 else x + math.log1p(-math.exp(-x))
