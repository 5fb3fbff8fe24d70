"""One treatment against the control: EM, tokens, and the two tests that decide."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from experiments.statistics import sequential
from experiments.statistics.aggregates import ClusterAggregate
from experiments.statistics.arms import ArmAggregates
from experiments.statistics.design import MINIMUM_UNITS, Design
from experiments.statistics.proportions import require_proportion, smoothed_variance
from experiments.statistics.relative import delta_standard_error, fieller_interval
from experiments.statistics.results import Estimate, Interval, NotEstimable
from experiments.statistics.safe_proportions import SafeDifference

_SEQUENCE = "asymptotic_confidence_sequence"


@dataclass(frozen=True, slots=True)
class EMContrast:
    """EM of the treatment minus EM of the control, as a fraction.

    Attributes:
        difference: estimate with its two-sided anytime-valid interval.
        lower_bound: one-sided anytime-valid lower bound at the design's alpha: above -margin, the loss is
            excluded.
        upper_bound: one-sided anytime-valid upper bound at the design's harm_alpha: below -margin, revert.
        p_non_inferiority: always-valid p-value of the null "difference <= -margin".
        p_harm: always-valid p-value of the null "difference >= -margin": at most harm_alpha, revert.
    """

    difference: Estimate
    lower_bound: float
    upper_bound: float
    p_non_inferiority: float
    p_harm: float


@dataclass(frozen=True, slots=True)
class TokenContrast:
    """Tokens of the treatment against the control.

    Attributes:
        difference: of means, tokens per completion, with its two-sided anytime-valid interval.
        relative_change: treatment / control - 1 with its two-sided anytime-valid Fieller interval.
        relative_upper_bound: one-sided anytime-valid upper bound of the relative change at the design's
            alpha.
        p_saving: always-valid p-value of the null "saving < min_saving". Only that of `decoded_tokens`
            decides.
        includes_probes: False marks the figures without probe tokens.
    """

    difference: Estimate
    relative_change: Estimate
    relative_upper_bound: float | NotEstimable
    p_saving: float
    includes_probes: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """All contrasts of one treatment with the control at one look.

    Attributes:
        treatment: key of the treatment.
        control: key of the control.
        em: the EM contrast, or why there is none.
        decoded_tokens: the headline token contrast, probes included.
        tokens_without_probes: the same without probe tokens, marked; it decides nothing.
    """

    treatment: str
    control: str
    em: EMContrast | NotEstimable
    decoded_tokens: TokenContrast | NotEstimable
    tokens_without_probes: TokenContrast | NotEstimable

    @property
    def p_ship(self) -> float:
        """p-value of the joint null: the larger of the two (intersection-union test), 1 where one is missing.

        Berger, "Multiparameter hypothesis testing and acceptance sampling" (Technometrics 1982), theorem 1:
        both nulls rejected, each at alpha, without splitting alpha.
        """
        if isinstance(self.em, NotEstimable) or isinstance(self.decoded_tokens, NotEstimable):
            return 1.0
        return max(self.em.p_non_inferiority, self.decoded_tokens.p_saving)


def compare(
    control: ArmAggregates, treatment: ArmAggregates, design: Design, em_test: SafeDifference | None = None
) -> Comparison:
    """Compares a treatment with the control.

    N of every sequence is the number of units of both arms together that enter the contrast.

    Args:
        control: the control arm.
        treatment: the treatment arm.
        design: margin, minimum saving, error rates and N*.
        em_test: the exact test of EM, where units have one request each; it takes the asymptotic one's place.

    Returns:
        The contrasts; an arm without labels, with fewer than MINIMUM_UNITS units (2 for the exact test, which holds
        at any sample size), or without any variation in tokens gives a NotEstimable with the reason in place of
        numbers.
    """
    least = MINIMUM_UNITS if em_test is None else 2
    em: EMContrast | NotEstimable
    if control.em is None or treatment.em is None:
        bare = control.key if control.em is None else treatment.key
        em = NotEstimable(f"arm {bare!r} has no labelled completions")
    else:
        em = (
            _too_few(control.key, control.em, least, "labelled ")
            or _too_few(treatment.key, treatment.em, least, "labelled ")
            or _em_contrast(control.em, treatment.em, design, em_test)
        )
    return Comparison(
        treatment=treatment.key,
        control=control.key,
        em=em,
        decoded_tokens=_tokens_or_reason(control, treatment, design, includes_probes=True),
        tokens_without_probes=_tokens_or_reason(control, treatment, design, includes_probes=False),
    )


def _em_contrast(
    control: ClusterAggregate, treatment: ClusterAggregate, design: Design, em_test: SafeDifference | None
) -> EMContrast | NotEstimable:
    asymptotic = compare_em(control, treatment, design)
    if em_test is None:
        return asymptotic
    interval = em_test.interval(design.level)
    return EMContrast(
        difference=replace(asymptotic.difference, interval=interval, method="exact_e_process"),
        lower_bound=em_test.lower_bound(design.alpha),
        upper_bound=em_test.upper_bound(design.harm_alpha),
        p_non_inferiority=em_test.p_value(-design.margin, "greater"),
        p_harm=em_test.p_value(-design.margin, "less"),
    )


def compare_em(control: ClusterAggregate, treatment: ClusterAggregate, design: Design) -> EMContrast:
    """The EM contrast of two arms with at least 2 units each.

    The difference is raw; its standard error comes from `smoothed_variance`, so that arms with all answers
    right or wrong keep an uncertainty. Bounds are cut at -1 and 1, where no difference can lie.
    """
    require_proportion("control", control)
    require_proportion("treatment", treatment)
    diff = treatment.mean - control.mean
    se = math.sqrt(smoothed_variance(control) + smoothed_variance(treatment))
    n, tuning_n = control.units + treatment.units, design.tuning_n
    raw = sequential.confidence_sequence(diff, se, n, tuning_n, 1 - design.level)
    return EMContrast(
        difference=Estimate(
            value=diff,
            se=se,
            interval=Interval(max(raw.lower, -1.0), min(raw.upper, 1.0), design.level),
            method=_SEQUENCE,
            anytime_valid=True,
            units=n,
            observations=round(control.sum_n + treatment.sum_n),
        ),
        lower_bound=max(-1.0, sequential.lower_bound(diff, se, n, tuning_n, design.alpha)),
        upper_bound=min(1.0, sequential.upper_bound(diff, se, n, tuning_n, design.harm_alpha)),
        p_non_inferiority=sequential.always_valid_p(
            diff, se, n, tuning_n, design.alpha, null=-design.margin, alternative="greater"
        ),
        p_harm=sequential.always_valid_p(
            diff, se, n, tuning_n, design.harm_alpha, null=-design.margin, alternative="less"
        ),
    )


def compare_tokens(
    control: ClusterAggregate, treatment: ClusterAggregate, design: Design, *, includes_probes: bool
) -> TokenContrast | NotEstimable:
    """The token contrast of two arms with at least 2 units each.

    The saving is tested through the linear contrast mean_t - (1 - min_saving) mean_c, which needs no division
    and agrees with the one-sided Fieller bound wherever that one is bounded.
    """
    v_control, v_treatment = control.variance_of_mean, treatment.variance_of_mean
    if control.mean <= 0:
        return NotEstimable("the control decoded no tokens")
    if v_control + v_treatment == 0:
        return NotEstimable("all units of each arm have the same number of tokens: no variation to judge by")
    n, tuning_n = control.units + treatment.units, design.tuning_n
    diff, se = treatment.mean - control.mean, math.sqrt(v_control + v_treatment)
    kept = 1 - design.min_saving
    contrast_se = math.sqrt(v_treatment + kept * kept * v_control)
    one_sided = sequential.multiplier(n, tuning_n, design.alpha, one_sided=True)
    upper = fieller_interval(control.mean, v_control, treatment.mean, v_treatment, one_sided, 1 - design.alpha)
    return TokenContrast(
        difference=Estimate(
            value=diff,
            se=se,
            interval=sequential.confidence_sequence(diff, se, n, tuning_n, 1 - design.level),
            method=_SEQUENCE,
            anytime_valid=True,
            units=n,
            observations=round(control.sum_n + treatment.sum_n),
        ),
        relative_change=_relative_change(control, treatment, design),
        relative_upper_bound=upper if isinstance(upper, NotEstimable) else upper.upper,
        p_saving=sequential.always_valid_p(
            treatment.mean - kept * control.mean, contrast_se, n, tuning_n, design.alpha, alternative="less"
        ),
        includes_probes=includes_probes,
    )


def _relative_change(control: ClusterAggregate, treatment: ClusterAggregate, design: Design) -> Estimate:
    moments = (control.mean, control.variance_of_mean, treatment.mean, treatment.variance_of_mean)
    n = control.units + treatment.units
    multiplier = sequential.multiplier(n, design.tuning_n, 1 - design.level)
    interval = fieller_interval(*moments, multiplier, design.level)
    if isinstance(interval, Interval):
        # Tokens are counts, so no change lies below -100 %.
        interval = Interval(max(interval.lower, -1.0), interval.upper, interval.level)
    return Estimate(
        value=treatment.mean / control.mean - 1,
        se=delta_standard_error(*moments),
        interval=interval,
        method=f"fieller_{_SEQUENCE}",
        anytime_valid=True,
        units=n,
        observations=round(control.sum_n + treatment.sum_n),
    )


def _tokens_or_reason(
    control: ArmAggregates, treatment: ArmAggregates, design: Design, *, includes_probes: bool
) -> TokenContrast | NotEstimable:
    pair = [arm.decoded_tokens if includes_probes else arm.tokens_without_probes for arm in (control, treatment)]
    reason = _too_few(control.key, pair[0], MINIMUM_UNITS) or _too_few(treatment.key, pair[1], MINIMUM_UNITS)
    return reason or compare_tokens(pair[0], pair[1], design, includes_probes=includes_probes)


def _too_few(key: str, aggregate: ClusterAggregate, least: int, kind: str = "") -> NotEstimable | None:
    if aggregate.units >= least and aggregate.sum_n > 0:
        return None
    return NotEstimable(f"arm {key!r} has too few {kind}units: {aggregate.units}, at least {least} are needed")
