"""Prediction-powered estimates: many cheap predictions of correctness, rectified by few real labels.

Angelopoulos, Bates, Fannjiang, Jordan and Zrnic, "Prediction-powered inference" (Science 2023); with the power tuning
of Angelopoulos, Duchi and Zrnic, "PPI++" (arXiv 2311.01453), section 6. A judge that is wrong makes the interval wide,
never the estimate biased, because each arm is rectified by its own labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import stats

from experiments.statistics import checks, sequential
from experiments.statistics.design import MINIMUM_UNITS, Design
from experiments.statistics.moments import UnitMoments
from experiments.statistics.proportions import PSEUDO_UNITS
from experiments.statistics.results import Estimate, Interval, NotEstimable

# Columns: requests and their predictions in percent, labelled requests, their labels and their predictions.
_ALL, _PREDICTED, _LABELLED, _CORRECT, _LABELLED_PREDICTED = (
    "completions",
    "proxy",
    "labelled",
    "correct",
    "labelled_proxy",
)
_PERCENT = 100.0


@dataclass(frozen=True, slots=True)
class Rectified:
    """EM of one arm.

    Attributes:
        em: the estimate with a normal interval at a fixed sample size.
        power_tuning: lambda in [0, 1], the weight of the predictions; at 0 they are not used.
        prediction_mean: mean prediction over all requests: what trusting the judge would say.
        bias: mean of prediction - label over the labelled requests.
    """

    em: Estimate
    power_tuning: float
    prediction_mean: float
    bias: float


@dataclass(frozen=True, slots=True)
class RectifiedContrast:
    """EM of the treatment minus EM of the control, both rectified.

    Attributes:
        control: the control.
        treatment: the treatment.
        difference: with its anytime-valid interval.
        p_non_inferiority: always-valid p-value of the null "difference <= -margin".
    """

    control: Rectified
    treatment: Rectified
    difference: Estimate
    p_non_inferiority: float


def rectified_em(moments: UnitMoments, level: float, power_tuning: float | None = None) -> Rectified | NotEstimable:
    """EM of one arm from predictions on all requests and labels on a random sample of them.

    The estimate is lambda * mean(f) + mean over labelled(y - lambda f). The labelled requests are among all, so the
    variance is that of the sum of both parts' linearised contributions per unit, their covariance included; lambda
    minimises it (PPI++, eq. 9, for units as clusters).

    Args:
        moments: of the arm; predictions are whole percents.
        level: nominal coverage in (0, 1).
        power_tuning: a fixed lambda in [0, 1], or None to choose it by the data.
    """
    checks.fraction("level", level)
    if power_tuning is not None and not 0 <= checks.finite("power_tuning", power_tuning) <= 1:
        raise ValueError(f"power_tuning must be in [0, 1], got {power_tuning}")
    n_all, n_labelled = moments.total(_ALL), moments.total(_LABELLED)
    if moments.units < 2 or n_labelled < 2:
        return NotEstimable(f"at least 2 units and 2 labels are needed, got {moments.units} and {n_labelled:g}")
    mean_label = moments.total(_CORRECT) / n_labelled
    mean_all = moments.total(_PREDICTED) / n_all / _PERCENT
    mean_labelled = moments.total(_LABELLED_PREDICTED) / n_labelled / _PERCENT
    # Contributions per unit: of the labels, and of the predictions for lambda = 1; both sum to 0.
    labels = {_CORRECT: 1 / n_labelled, _LABELLED: -mean_label / n_labelled}
    predictions = {
        _PREDICTED: 1 / n_all / _PERCENT,
        _ALL: -mean_all / n_all,
        _LABELLED_PREDICTED: -1 / n_labelled / _PERCENT,
        _LABELLED: mean_labelled / n_labelled,
    }
    spread = moments.covariance(predictions, predictions)
    crossed = moments.covariance(labels, predictions)
    if power_tuning is None:
        power_tuning = min(1.0, max(0.0, -crossed / spread)) if spread > 0 else 0.0
    total = moments.covariance(labels, labels) + 2 * power_tuning * crossed + power_tuning**2 * spread
    se = math.sqrt(max(0.0, total) * moments.units / (moments.units - 1))
    value = mean_label + power_tuning * (mean_all - mean_labelled)
    half = float(stats.norm.isf((1 - level) / 2)) * se
    estimate = Estimate(
        value=value,
        se=se,
        interval=Interval(value - half, value + half, level),
        method="prediction_powered",
        anytime_valid=False,
        units=moments.units,
        observations=round(n_labelled),
    )
    return Rectified(estimate, power_tuning, mean_all, mean_labelled - mean_label)


def rectified_contrast(
    control: UnitMoments, treatment: UnitMoments, design: Design
) -> RectifiedContrast | NotEstimable:
    """Both arms rectified by their own labels, and their difference under repeated looks.

    The asymptotic confidence sequence (Waudby-Smith et al. 2024) of an estimate that is a mean of contributions per
    unit. N counts the labelled units of both arms: they are what the information grows with, and with all units
    instead, a loss of exactly the margin was called none up to 21 % of the time for 5 %. For the same reason each
    arm's variance is smoothed by pseudo-labels.
    """
    sides, variance, n = [], 0.0, 0
    for moments in (control, treatment):
        units = moments.units_with({_LABELLED: 1.0})
        if units < MINIMUM_UNITS:
            return NotEstimable(f"at least {MINIMUM_UNITS} labelled units are needed in each arm, got {units}")
        side = rectified_em(moments, design.level)
        if isinstance(side, NotEstimable):
            return side
        sides.append(side)
        variance += _smoothed(side, moments.total(_CORRECT) / moments.total(_LABELLED), units)
        n += units
    value, se = sides[1].em.value - sides[0].em.value, math.sqrt(variance)
    estimate = Estimate(
        value=value,
        se=se,
        interval=sequential.confidence_sequence(value, se, n, design.tuning_n, 1 - design.level),
        method="prediction_powered_asymptotic_confidence_sequence",
        anytime_valid=True,
        units=n,
        observations=sides[0].em.observations + sides[1].em.observations,
    )
    p = sequential.always_valid_p(
        value, se, n, design.tuning_n, design.alpha, null=-design.margin, alternative="greater"
    )
    return RectifiedContrast(sides[0], sides[1], estimate, p)


def _smoothed(side: Rectified, mean_label: float, units: int) -> float:
    """The variance with PSEUDO_UNITS labelled units added that are all right, and as many that are all wrong.

    They have the average number of labels, and predictions that are neither better nor worse than the average, so that
    only the labels' part is smoothed. Without predictions it is that of `proportions.smoothed_variance` but for terms
    of the order 1 / units³.
    """
    total = units + 2 * PSEUDO_UNITS
    mean = (mean_label * units + PSEUDO_UNITS) / total
    return (side.em.se * units / total) ** 2 + PSEUDO_UNITS * (mean**2 + (1 - mean) ** 2) / total**2
