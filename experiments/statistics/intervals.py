"""Fixed-sample intervals of one arm's mean: for display, not for decisions under repeated looks."""

from __future__ import annotations

import math

from scipy import stats

from experiments.statistics import checks
from experiments.statistics.aggregates import ClusterAggregate
from experiments.statistics.results import Estimate, Interval, NotEstimable


def mean_interval(aggregate: ClusterAggregate, level: float) -> Estimate | NotEstimable:
    """Student's t interval of a mean over units, with the linearised cluster variance and k - 1 degrees of
    freedom.

    Args:
        aggregate: the metric over units; the estimate has the metric's units.
        level: nominal coverage in (0, 1).

    Returns:
        The estimate, or NotEstimable with fewer than 2 units.
    """
    checks.fraction("level", level)
    if aggregate.units < 2 or aggregate.sum_n == 0:
        return NotEstimable(f"a mean needs at least 2 units with completions, got {aggregate.units}")
    mean, se = aggregate.mean, math.sqrt(aggregate.variance_of_mean)
    half = float(stats.t.isf((1.0 - level) / 2, aggregate.units - 1)) * se
    return Estimate(
        value=mean,
        se=se,
        interval=Interval(mean - half, mean + half, level),
        method="t",
        anytime_valid=False,
        units=aggregate.units,
        observations=round(aggregate.sum_n),
    )
