"""The interval of one arm's mean."""

from __future__ import annotations

import math

from experiments.statistics import checks, sequential
from experiments.statistics.aggregates import ClusterAggregate
from experiments.statistics.design import MINIMUM_UNITS
from experiments.statistics.results import Estimate, Interval, NotEstimable


def mean_sequence(aggregate: ClusterAggregate, level: float, tuning_n: float) -> Estimate | NotEstimable:
    """Asymptotic confidence sequence of a mean of non-negative values over units, on the log scale.

    By the delta method log(mean) has the standard error SE / mean, and the sequence of Waudby-Smith et al. (arXiv
    2103.06476, eq. 9) holds for any such linearised estimate. On the log scale the limits are mean exp(-+ w SE /
    mean): never negative, and longer to the right, as tokens are (docs/simulations.md has its coverage for heavy
    tails, where Student's t covers too little).

    Args:
        aggregate: the metric over units, clustered; the estimate has the metric's units.
        level: coverage over all looks, in (0, 1).
        tuning_n: N*, units of this arm.

    Returns:
        The estimate, without an interval below MINIMUM_UNITS units; or NotEstimable with fewer than 2 units or without
        completions. Values that are all equal have an interval of length 0.
    """
    checks.fraction("level", level)
    checks.positive("tuning_n", tuning_n)
    if aggregate.units < 2:
        return NotEstimable(f"a mean needs at least 2 units with completions, got {aggregate.units}")
    if aggregate.sum_n == 0:
        return NotEstimable(f"a mean needs completions, got none in {aggregate.units} units")
    mean, se = aggregate.mean, math.sqrt(aggregate.variance_of_mean)
    if mean < 0:
        raise ValueError(f"aggregate must be of a metric >= 0, got a mean of {mean}")
    interval: Interval | NotEstimable = NotEstimable(
        f"an interval of a mean needs at least {MINIMUM_UNITS} units, got {aggregate.units}"
    )
    if aggregate.units >= MINIMUM_UNITS:
        interval = sequential.log_confidence_sequence(mean, se, aggregate.units, tuning_n, 1 - level)
    return Estimate(
        value=mean,
        se=se,
        interval=interval,
        method="log_asymptotic_confidence_sequence",
        anytime_valid=True,
        units=aggregate.units,
        observations=round(aggregate.sum_n),
    )
