"""Segments of the traffic: harm in a declared one reverts; differences between undeclared ones are exploration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from scipy import stats

from experiments.statistics import sequential
from experiments.statistics.aggregates import ClusterAggregate
from experiments.statistics.design import MINIMUM_UNITS, Design
from experiments.statistics.multiplicity import benjamini_hochberg
from experiments.statistics.proportions import smoothed_variance
from experiments.statistics.results import Estimate, Interval, NotEstimable

Segments = Mapping[str, ClusterAggregate]


@dataclass(frozen=True, slots=True)
class SegmentHarm:
    """The test for harm of one treatment in one declared segment.

    Attributes:
        treatment: key of the arm.
        segment: its name.
        upper_bound: one-sided anytime-valid upper bound of the EM difference at the design's harm_alpha, or why
            there is none.
        harmed: whether it is below -margin.
        message: one sentence with the numbers.
    """

    treatment: str
    segment: str
    upper_bound: float | None
    harmed: bool
    message: str


@dataclass(frozen=True, slots=True)
class SegmentContrast:
    """The EM difference of one treatment in one segment, whether declared or not.

    Attributes:
        treatment: key of the arm.
        segment: its name.
        difference: estimate with its two-sided anytime-valid interval, or why there is none.
        p_value: always-valid, of "no difference".
        p_adjusted: after Benjamini and Hochberg over all segments of this treatment: exploration.
    """

    treatment: str
    segment: str
    difference: Estimate | NotEstimable
    p_value: float
    p_adjusted: float


@dataclass(frozen=True, slots=True)
class Interaction:
    """Whether a treatment's effect differs between segments.

    Cochran's Q over the segments' differences (Cochran, Biometrics 1954): about chi-square with k - 1 degrees of
    freedom when all are equal. A fixed-sample test: it is not valid under repeated looks, and decides nothing.
    """

    treatment: str
    statistic: float
    degrees_of_freedom: int
    p_value: float


def harm(treatment: str, control: Segments, treated: Segments, design: Design) -> tuple[SegmentHarm, ...]:
    """The tests for harm in the declared segments, in their order.

    Args:
        treatment: key of the arm.
        control: labelled answers of the control by segment.
        treated: the same of the treatment.
        design: margin, declared segments, harm_alpha and N*.
    """
    return tuple(
        _harm(treatment, segment, control.get(segment), treated.get(segment), design) for segment in design.segments
    )


def _harm(
    treatment: str, segment: str, control: ClusterAggregate | None, treated: ClusterAggregate | None, design: Design
) -> SegmentHarm:
    moments = _moments(control, treated)
    if isinstance(moments, NotEstimable):
        return SegmentHarm(treatment, segment, None, False, f"Segment {segment}: {moments.reason}.")
    difference, se, units = moments
    upper = min(1.0, sequential.upper_bound(difference, se, units, design.tuning_n, design.harm_alpha))
    harmed = upper < -design.margin
    verb = "more than" if harmed else "not shown to be more than"
    message = (
        f"In segment {segment} EM changes by {difference * 100:+.1f} points (upper bound {upper * 100:+.1f}): the loss "
        f"is {verb} the margin of {design.margin * 100:.1f} points."
    )
    return SegmentHarm(treatment, segment, upper, harmed, message)


def contrasts(treatment: str, control: Segments, treated: Segments, design: Design) -> tuple[SegmentContrast, ...]:
    """The EM differences in all segments that either arm has seen, by name."""
    names = sorted({*control, *treated})
    found = {name: _contrast(control.get(name), treated.get(name), design) for name in names}
    testable = {name: p for name, (difference, p) in found.items() if isinstance(difference, Estimate)}
    adjusted = benjamini_hochberg(testable) if testable else {}
    return tuple(
        SegmentContrast(treatment, name, difference, p, adjusted.get(name, 1.0))
        for name, (difference, p) in found.items()
    )


def _contrast(
    control: ClusterAggregate | None, treated: ClusterAggregate | None, design: Design
) -> tuple[Estimate | NotEstimable, float]:
    moments = _moments(control, treated)
    if isinstance(moments, NotEstimable) or control is None or treated is None:
        return (moments if isinstance(moments, NotEstimable) else NotEstimable("an arm has no labels")), 1.0
    value, se, units = moments
    alpha = 1 - design.level
    raw = sequential.confidence_sequence(value, se, units, design.tuning_n, alpha)
    estimate = Estimate(
        value=value,
        se=se,
        interval=Interval(max(raw.lower, -1.0), min(raw.upper, 1.0), design.level),
        method="asymptotic_confidence_sequence",
        anytime_valid=True,
        units=units,
        observations=round(control.sum_n + treated.sum_n),
    )
    return estimate, sequential.always_valid_p(value, se, units, design.tuning_n, alpha)


def interaction(treatment: str, control: Segments, treated: Segments) -> Interaction | NotEstimable:
    """Tests whether the EM difference is the same in all segments that can be judged."""
    pairs = [_moments(control.get(name), treated.get(name)) for name in sorted({*control, *treated})]
    moments = [pair for pair in pairs if not isinstance(pair, NotEstimable)]
    if len(moments) < 2:
        return NotEstimable(f"an interaction needs at least 2 segments with labels in both arms, got {len(moments)}")
    weights = [1 / (se * se) for _, se, _ in moments]
    pooled = sum(w * value for w, (value, _, _) in zip(weights, moments, strict=True)) / sum(weights)
    statistic = sum(w * (value - pooled) ** 2 for w, (value, _, _) in zip(weights, moments, strict=True))
    freedom = len(moments) - 1
    return Interaction(treatment, statistic, freedom, float(stats.chi2.sf(statistic, freedom)))


def _moments(
    control: ClusterAggregate | None, treated: ClusterAggregate | None
) -> tuple[float, float, int] | NotEstimable:
    """Difference, its standard error and the units of both arms."""
    if control is None or control.units < MINIMUM_UNITS:
        return NotEstimable(f"the control has fewer than {MINIMUM_UNITS} labelled units there")
    if treated is None or treated.units < MINIMUM_UNITS:
        return NotEstimable(f"the treatment has fewer than {MINIMUM_UNITS} labelled units there")
    se = math.sqrt(smoothed_variance(control) + smoothed_variance(treated))
    return treated.mean - control.mean, se, control.units + treated.units
