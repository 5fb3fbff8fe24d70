"""Ratio metrics, such as tokens per correct answer, by the delta method over units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from experiments.statistics import checks, sequential
from experiments.statistics.design import MINIMUM_UNITS
from experiments.statistics.means import welch_degrees_of_freedom
from experiments.statistics.moments import UnitMoments
from experiments.statistics.relative import delta_standard_error, fieller_interval
from experiments.statistics.results import Estimate, Interval, NotEstimable

# A denominator nearer to zero than this many standard errors bounds no ratio.
_SEPARATED = 3.0


@dataclass(frozen=True, slots=True)
class RatioContrast:
    """A ratio metric of the treatment against the control.

    Attributes:
        control: the control's ratio, anytime-valid.
        treatment: the treatment's.
        difference: treatment - control; fixed sample.
        relative_change: treatment / control - 1, by Fieller; fixed sample.
        p_value: two-sided, of "no difference" (Welch's t); fixed sample.
    """

    control: Estimate
    treatment: Estimate
    difference: Estimate
    relative_change: Estimate | NotEstimable
    p_value: float


def ratio(
    moments: UnitMoments, numerator: Sequence[str], denominator: Sequence[str], level: float, tuning_n: float
) -> Estimate | NotEstimable:
    """One arm's Σ numerator / Σ denominator, columns >= 0, with an anytime-valid interval on the log scale.

    Deng, Knoblich and Lu (KDD 2018), section 3.1: the variance of the mean of (numerator - ratio * denominator)
    over units, divided by the squared mean of the denominator.

    Args:
        moments: of the arm, one row per unit.
        numerator: columns that are added up, e.g. the kinds of tokens.
        denominator: columns that are added up, e.g. correct answers.
        level: coverage over all looks, in (0, 1).
        tuning_n: N*, units of this arm.
    """
    checks.fraction("level", level)
    k, bottom = moments.units, moments.total(*denominator)
    if k < 2:
        return NotEstimable(f"a ratio needs at least 2 units, got {k}")
    if bottom <= 0:
        return NotEstimable(f"the denominator ({' + '.join(denominator)}) must be > 0, got {bottom:g}")
    spread = _centred(moments, dict.fromkeys(denominator, 1.0))
    if bottom < _SEPARATED * math.sqrt(spread):
        return NotEstimable(f"the denominator is less than {_SEPARATED:g} standard errors from zero")
    value = moments.total(*numerator) / bottom
    weights = dict.fromkeys(numerator, 1.0)
    for name in denominator:
        weights[name] = weights.get(name, 0.0) - value
    se = math.sqrt(_centred(moments, weights)) / bottom
    interval: Interval | NotEstimable = NotEstimable(
        f"an interval of a ratio needs at least {MINIMUM_UNITS} units, got {k}"
    )
    if k >= MINIMUM_UNITS:
        interval = sequential.log_confidence_sequence(value, se, k, tuning_n, 1 - level)
    return Estimate(value, se, interval, "log_asymptotic_confidence_sequence", True, k, round(bottom))


def _centred(moments: UnitMoments, weights: dict[str, float]) -> float:
    """Variance of the sum over units of a linear combination of columns."""
    k = moments.units
    total = sum(weight * moments.total(name) for name, weight in weights.items())
    return max(0.0, moments.covariance(weights, weights) - total * total / k) * k / (k - 1)


def ratio_contrast(
    control: UnitMoments,
    treatment: UnitMoments,
    numerator: Sequence[str],
    denominator: Sequence[str],
    level: float,
    tuning_n: float,
) -> RatioContrast | NotEstimable:
    """The treatment's ratio against the control's; see `ratio` for the arguments, with N* of both arms."""
    sides = [ratio(side, numerator, denominator, level, tuning_n / 2) for side in (control, treatment)]
    for side in sides:
        if isinstance(side, NotEstimable):
            return side
    first, second = (side for side in sides if isinstance(side, Estimate))
    se, k = math.hypot(first.se, second.se), (first.units, second.units)
    if se == 0:
        return NotEstimable("all units of each arm have the same ratio: no variation to judge by")
    freedom = welch_degrees_of_freedom((first.se**2, second.se**2), k)
    value, half = second.value - first.value, float(stats.t.isf((1 - level) / 2, freedom)) * se
    observations = first.observations + second.observations
    interval = Interval(value - half, value + half, level)
    return RatioContrast(
        control=first,
        treatment=second,
        difference=Estimate(value, se, interval, "delta", False, sum(k), observations),
        relative_change=_relative(first, second, level),
        p_value=2 * float(stats.t.sf(abs(value / se), freedom)),
    )


def _relative(control: Estimate, treatment: Estimate, level: float) -> Estimate | NotEstimable:
    if control.value <= 0:
        return NotEstimable(f"the control's ratio must be > 0 for a relative change, got {control.value:g}")
    moments = (control.value, control.se**2, treatment.value, treatment.se**2)
    return Estimate(
        value=treatment.value / control.value - 1,
        se=delta_standard_error(*moments),
        interval=fieller_interval(*moments, float(stats.norm.isf((1 - level) / 2)), level),
        method="fieller",
        anytime_valid=False,
        units=control.units + treatment.units,
        observations=control.observations + treatment.observations,
    )
