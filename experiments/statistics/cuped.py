"""CUPED: variance reduction with a covariate from before exposure.

Deng, Xu, Kohavi and Walker, "Improving the sensitivity of online controlled experiments by utilizing pre-experiment
data" (WSDM 2013), eq. 4. The covariate must not be changed by the treatment: here the length of a unit's first prompt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from experiments.statistics import checks
from experiments.statistics.means import welch_degrees_of_freedom
from experiments.statistics.moments import UnitMoments
from experiments.statistics.results import Estimate, Interval, NotEstimable


@dataclass(frozen=True, slots=True)
class Adjusted:
    """A difference of means with the covariate's chance imbalance taken out.

    Attributes:
        difference: treatment - control, adjusted, with a t interval.
        theta: tokens (units of the metric) per unit of the covariate, pooled over both arms.
        variance_reduction: share of the unadjusted variance that is gone, a fraction <= 1.
        p_value: two-sided, of "no difference".
    """

    difference: Estimate
    theta: float
    variance_reduction: float
    p_value: float


@dataclass(frozen=True, slots=True)
class _Side:
    """Mean, covariate's mean, and per-unit second moments of both, of one arm."""

    units: int
    mean: float
    covariate: float
    variance: float
    covariance: float
    covariate_variance: float


def cuped_difference(
    control: UnitMoments, treatment: UnitMoments, sums: Sequence[str], counts: str, covariate: str, level: float
) -> Adjusted | NotEstimable:
    """The adjusted difference of Σ sums / Σ counts.

    With several completions per unit the metric enters linearised: unit i counts with
    (s_i - mean n_i) / (average n), so that with one completion per unit this is ordinary CUPED.

    Args:
        control: moments of the control, one row per unit.
        treatment: of the treatment.
        sums: columns that are added up to the metric's total per unit.
        counts: column with the completions per unit.
        covariate: column with one value per unit, known before exposure.
        level: nominal coverage in (0, 1).

    Returns:
        The estimate, or NotEstimable with fewer than 2 units in an arm, or a covariate or metric without variation.
    """
    checks.fraction("level", level)
    sides = []
    for name, moments in (("control", control), ("treatment", treatment)):
        if moments.units < 2 or moments.total(counts) <= 0:
            return NotEstimable(f"the {name} has {moments.units} units, at least 2 are needed")
        sides.append(_side(moments, sums, counts, covariate))
    theta = _pooled_theta(sides[0], sides[1])
    if isinstance(theta, NotEstimable):
        return theta
    return _adjust(sides[0], sides[1], theta, level, round(control.total(counts) + treatment.total(counts)))


def _pooled_theta(control: _Side, treatment: _Side) -> float | NotEstimable:
    """Slope of the metric on the covariate over the units of both arms together.

    Any theta that does not depend on the assignment gives a consistent estimate; this is the one of Deng et al.,
    whose arms are pooled as if they were one sample.
    """
    between = control.units * treatment.units / (control.units + treatment.units)
    apart = treatment.covariate - control.covariate
    spread = sum(side.covariate_variance * (side.units - 1) for side in (control, treatment))
    if spread <= 0:
        return NotEstimable("the covariate does not vary within the arms")
    together = sum(side.covariance * (side.units - 1) for side in (control, treatment))
    return (together + between * apart * (treatment.mean - control.mean)) / (spread + between * apart * apart)


def _side(moments: UnitMoments, sums: Sequence[str], counts: str, covariate: str) -> _Side:
    k, n = moments.units, moments.total(counts)
    mean, scale = moments.total(*sums) / n, k / n
    metric = dict.fromkeys(sums, scale) | {counts: -mean * scale}
    x = {covariate: 1.0}
    average = moments.total(covariate) / k
    return _Side(
        units=k,
        mean=mean,
        covariate=average,
        # The linearised metric sums to 0, so only the covariate needs centring.
        variance=max(0.0, moments.covariance(metric, metric)) / (k - 1),
        covariance=moments.covariance(metric, x) / (k - 1),
        covariate_variance=max(0.0, moments.covariance(x, x) - k * average * average) / (k - 1),
    )


def _adjust(control: _Side, treatment: _Side, theta: float, level: float, observations: int) -> Adjusted | NotEstimable:
    value = treatment.mean - control.mean - theta * (treatment.covariate - control.covariate)
    variances = tuple(
        max(0.0, side.variance - 2 * theta * side.covariance + theta**2 * side.covariate_variance) / side.units
        for side in (control, treatment)
    )
    plain = control.variance / control.units + treatment.variance / treatment.units
    if sum(variances) <= 0 or plain <= 0:
        return NotEstimable("nothing is left to vary: the covariate explains the metric completely")
    se = math.sqrt(sum(variances))
    freedom = welch_degrees_of_freedom((variances[0], variances[1]), (control.units, treatment.units))
    half = float(stats.t.isf((1 - level) / 2, freedom)) * se
    units = control.units + treatment.units
    return Adjusted(
        difference=Estimate(
            value, se, Interval(value - half, value + half, level), "cuped", False, units, observations
        ),
        theta=theta,
        variance_reduction=1 - sum(variances) / plain,
        p_value=2 * float(stats.t.sf(abs(value / se), freedom)),
    )
