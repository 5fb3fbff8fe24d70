"""The relative change of two independent means, treatment / control - 1."""

from __future__ import annotations

import math

from experiments.statistics import checks
from experiments.statistics.results import Interval, NotEstimable


def fieller_interval(
    mean_control: float,
    variance_control: float,
    mean_treatment: float,
    variance_treatment: float,
    multiplier: float,
    level: float,
) -> Interval | NotEstimable:
    """Fieller's (1954) interval: every R for which treatment - (1 + R) control is within `multiplier` errors
    of 0.

    With a multiplier of 1.96 it is the fixed-sample interval. With the multiplier of a confidence sequence
    (`sequential.multiplier`, which does not depend on R) it is anytime-valid, because each contrast's
    sequence is.

    Args:
        mean_control: mean of the control, > 0, in units of the metric.
        variance_control: variance of that mean (not of one unit), >= 0.
        mean_treatment: mean of the treatment, same units.
        variance_treatment: variance of that mean, >= 0.
        multiplier: critical value in standard errors, > 0.
        level: the coverage that the multiplier stands for, recorded in the result.

    Returns:
        Bounds of the relative change as fractions, or NotEstimable where the control's mean is not separated
        from zero at this multiplier: the set is then unbounded.
    """
    if mean_control <= 0:
        return NotEstimable(f"the control's mean must be > 0 for a relative change, got {mean_control:g}")
    checks.non_negative("variance_control", variance_control)
    checks.non_negative("variance_treatment", variance_treatment)
    checks.positive("multiplier", multiplier)
    ratio = checks.finite("mean_treatment", mean_treatment) / mean_control
    v_control = variance_control / mean_control / mean_control
    v_treatment = variance_treatment / mean_control / mean_control
    g = multiplier * multiplier * v_control
    if g >= 1:
        errors = 1 / math.sqrt(v_control)
        return NotEstimable(
            f"the control's mean is {errors:.2f} standard errors from zero, "
            f"a bounded interval needs more than {multiplier:.2f}"
        )
    half = multiplier * math.sqrt(v_treatment * (1 - g) + ratio * ratio * v_control)
    lower, upper = (ratio - half) / (1 - g) - 1, (ratio + half) / (1 - g) - 1
    return Interval(min(lower, ratio - 1), max(upper, ratio - 1), level)


def delta_standard_error(
    mean_control: float, variance_control: float, mean_treatment: float, variance_treatment: float
) -> float:
    """First-order standard error of treatment / control - 1 for independent means.

    Deng, Knoblich and Lu (KDD 2018), "Inference of percent change": Var = v_t / m_c² + v_c m_t² / m_c⁴. It
    serves as the displayed standard error; Fieller's interval is the default, because plus or minus some of
    these undercovers for skewed tokens.

    Raises:
        ValueError: a negative variance, or a control mean that is not > 0.
    """
    checks.positive("mean_control", mean_control)
    checks.non_negative("variance_control", variance_control)
    checks.non_negative("variance_treatment", variance_treatment)
    ratio = checks.finite("mean_treatment", mean_treatment) / mean_control
    return math.sqrt(variance_treatment + ratio * ratio * variance_control) / mean_control
