"""The difference of two means at a fixed sample size."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import stats

from experiments.statistics import checks
from experiments.statistics.aggregates import ClusterAggregate
from experiments.statistics.results import Estimate, Interval, NotEstimable


@dataclass(frozen=True, slots=True)
class MeanTest:
    """A t test with its estimate.

    Attributes:
        estimate: with its two-sided interval.
        statistic: t.
        degrees_of_freedom: of t, > 0.
        p_value: two-sided, of "no difference".
    """

    estimate: Estimate
    statistic: float
    degrees_of_freedom: float
    p_value: float


def welch_degrees_of_freedom(variances: tuple[float, float], units: tuple[int, int]) -> float:
    """Welch-Satterthwaite degrees of freedom (Welch, Biometrika 1947).

    Args:
        variances: of each arm's mean (not of one unit), not both 0.
        units: of each arm, each >= 2.
    """
    total = variances[0] + variances[1]
    checks.positive("the sum of variances", total)
    shares = [variance / total for variance in variances]
    return 1 / sum(share * share / (k - 1) for share, k in zip(shares, units, strict=True))


def welch_difference(control: ClusterAggregate, treatment: ClusterAggregate, level: float) -> MeanTest | NotEstimable:
    """Mean of the treatment minus mean of the control, by Welch's t test over units.

    Where units have several completions, the variances are the linearised ones of `ClusterAggregate`.

    Args:
        control: the metric over the control's units.
        treatment: over the treatment's.
        level: nominal coverage in (0, 1).

    Returns:
        The test, or NotEstimable with fewer than 2 units in an arm or without any variation.
    """
    checks.fraction("level", level)
    for name, side in (("control", control), ("treatment", treatment)):
        if side.units < 2:
            return NotEstimable(f"the {name} has {side.units} units, at least 2 are needed")
        if side.sum_n == 0:
            return NotEstimable(f"the {name} has no completion in its {side.units} units")
    variances = control.variance_of_mean, treatment.variance_of_mean
    if sum(variances) == 0:
        return NotEstimable("all units of each arm have the same mean: no variation to judge by")
    value, se = treatment.mean - control.mean, math.sqrt(sum(variances))
    freedom = welch_degrees_of_freedom(variances, (control.units, treatment.units))
    half = float(stats.t.isf((1 - level) / 2, freedom)) * se
    estimate = Estimate(
        value=value,
        se=se,
        interval=Interval(value - half, value + half, level),
        method="welch_t",
        anytime_valid=False,
        units=control.units + treatment.units,
        observations=round(control.sum_n + treatment.sum_n),
    )
    statistic = value / se
    return MeanTest(estimate, statistic, freedom, 2 * float(stats.t.sf(abs(statistic), freedom)))
