"""The decision rule: ship, revert, keep running or inconclusive, with its reasons as values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from experiments.statistics import checks
from experiments.statistics.comparison import Comparison
from experiments.statistics.design import Design
from experiments.statistics.guardrails import GuardrailAction, GuardrailResult
from experiments.statistics.health import Health
from experiments.statistics.multiplicity import holm
from experiments.statistics.results import NotEstimable
from experiments.statistics.segments import SegmentHarm


class Decision(StrEnum):
    """What a verdict says."""

    SHIP = "ship"
    REVERT = "revert"
    KEEP_RUNNING = "keep_running"
    INCONCLUSIVE = "inconclusive"


class ReasonCode(StrEnum):
    """Why a verdict says it."""

    EM_WITHIN_MARGIN = "em_within_margin"
    EM_NOT_SHOWN = "em_not_shown"
    EM_BEYOND_MARGIN = "em_beyond_margin"
    GUARDRAIL_BREACHED = "guardrail_breached"
    SEGMENT_HARMED = "segment_harmed"
    SAVING_SHOWN = "saving_shown"
    SAVING_NOT_SHOWN = "saving_not_shown"
    MULTIPLICITY = "multiplicity"
    NOT_ESTIMABLE = "not_estimable"
    HEALTH_BLOCKS_SHIP = "health_blocks_ship"
    ESTIMATE_BLOCKS_SHIP = "estimate_blocks_ship"
    ALARM_BLOCKS_SHIP = "alarm_blocks_ship"
    MAXIMUM_REACHED = "maximum_reached"
    REVERTED_EARLIER = "reverted_earlier"


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason.

    Attributes:
        code: its kind.
        name: the quantity, e.g. "em_difference_lower_bound".
        value: its value (fractions, p-values or counts), or None where it is not estimable or not a number.
        bound: what the value was held against, or None.
        message: one sentence with the numbers, fractions shown as points and percent.
    """

    code: ReasonCode
    name: str
    value: float | None
    bound: float | None
    message: str


@dataclass(frozen=True, slots=True)
class TreatmentVerdict:
    """The decision on one treatment.

    Attributes:
        treatment: its key.
        decision: ship, revert, keep running or inconclusive.
        p_ship: larger of the two p-values, 1 where one is missing.
        p_ship_adjusted: the same after Holm over all treatments.
        reasons: why, the deciding one first.
    """

    treatment: str
    decision: Decision
    p_ship: float
    p_ship_adjusted: float
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision on the experiment.

    Attributes:
        decision: ship when any treatment can ship; revert when all are reverted; inconclusive at the maximum;
            keep running otherwise.
        winner: of the treatments that can ship, the one that saves most decoded tokens; None unless decision
            is ship.
        treatments: one verdict each, in alphabetical order.
    """

    decision: Decision
    winner: str | None
    treatments: tuple[TreatmentVerdict, ...]


@dataclass(frozen=True, slots=True)
class VerdictInputs:
    """What the verdict is a function of: the parts of one snapshot.

    Attributes:
        design: the declared question.
        comparisons: one per running treatment.
        health: the look's health.
        total_units: exposures over all variants and phases, against the design's maximum_units.
        duration_reached: whether the declared maximum duration has passed.
        reverted: treatments that were reverted in earlier phases; they stay in the Holm family, with p = 1.
        guardrails: results of the declared guardrails.
        segments: results of the declared segments.
    """

    design: Design
    comparisons: tuple[Comparison, ...]
    health: Health
    total_units: int
    duration_reached: bool = False
    reverted: tuple[str, ...] = ()
    guardrails: tuple[GuardrailResult, ...] = ()
    segments: tuple[SegmentHarm, ...] = ()

    def __post_init__(self) -> None:
        checks.count("total_units", self.total_units)
        running = sorted(comparison.treatment for comparison in self.comparisons)
        if running != list(self.design.treatments):
            raise ValueError(f"comparisons must cover {list(self.design.treatments)}, got {running}")
        if len(set(self.reverted)) != len(self.reverted):
            raise ValueError(f"reverted must name each treatment once, got {list(self.reverted)}")
        again = set(self.reverted) & set(self.design.weights)
        if again:
            raise ValueError(f"reverted must not name variants of the running phase, got {sorted(again)}")


def verdict(inputs: VerdictInputs) -> Verdict:
    """The verdict at one look.

    Ship: both nulls rejected, each at alpha (intersection-union), Holm over treatments on the larger p-value,
    healthy, no alarm, and an estimate that does not contradict the tests. Revert: the upper bound of the EM difference
    is below -margin, over all requests or in a declared segment, or a guardrail is breached; at any sample size and
    whatever the health. Inconclusive: the declared maximum is reached with neither.
    """
    p_values = {comparison.treatment: comparison.p_ship for comparison in inputs.comparisons}
    adjusted = holm({**p_values, **dict.fromkeys(inputs.reverted, 1.0)})
    ending = _maximum_reached(inputs)
    verdicts = [_judge(comparison, adjusted[comparison.treatment], ending, inputs) for comparison in inputs.comparisons]
    verdicts += [_reverted_earlier(key) for key in inputs.reverted]
    treatments = tuple(sorted(verdicts, key=lambda item: item.treatment))
    decision = _overall({item.decision for item in treatments})
    winner = _winner(inputs, treatments) if decision is Decision.SHIP else None
    return Verdict(decision, winner, treatments)


def _judge(
    comparison: Comparison, p_adjusted: float, ending: tuple[Reason, ...], inputs: VerdictInputs
) -> TreatmentVerdict:
    design = inputs.design
    harms = _harms(comparison, inputs)
    blocks = (*_contradiction(comparison, design), *_blocks(inputs))
    reasons: tuple[Reason, ...]
    evidence = (_em_reason(comparison, design), _saving_reason(comparison, design))
    if harms:
        decision, reasons = Decision.REVERT, (*harms, evidence[1])
    elif p_adjusted <= design.alpha and not blocks:
        decision, reasons = Decision.SHIP, evidence
    else:
        decision = Decision.INCONCLUSIVE if ending else Decision.KEEP_RUNNING
        reasons = (*ending, *_multiplicity(comparison, p_adjusted, design), *blocks, *evidence)
    return TreatmentVerdict(comparison.treatment, decision, comparison.p_ship, p_adjusted, reasons)


def _harms(comparison: Comparison, inputs: VerdictInputs) -> tuple[Reason, ...]:
    """Everything that reverts this treatment: the EM margin, guardrails, declared segments."""
    breaches = [
        Reason(ReasonCode.GUARDRAIL_BREACHED, item.metric.value, item.lower_bound, item.bound, item.message)
        for item in inputs.guardrails
        if item.breached and item.action is GuardrailAction.REVERT and item.treatment == comparison.treatment
    ]
    harmed = [
        Reason(ReasonCode.SEGMENT_HARMED, item.segment, item.upper_bound, -inputs.design.margin, item.message)
        for item in inputs.segments
        if item.harmed and item.treatment == comparison.treatment
    ]
    return (*_em_harm(comparison, inputs.design), *breaches, *harmed)


def _em_harm(comparison: Comparison, design: Design) -> tuple[Reason, ...]:
    em = comparison.em
    if isinstance(em, NotEstimable) or em.p_harm > design.harm_alpha:
        return ()
    message = (
        f"EM is lower by at least {_points(-em.upper_bound)} (upper bound of the difference "
        f"{_points(em.upper_bound, sign=True)}), more than the margin of {_points(design.margin)}."
    )
    name = "em_difference_upper_bound"
    return (Reason(ReasonCode.EM_BEYOND_MARGIN, name, em.upper_bound, -design.margin, message),)


def _em_reason(comparison: Comparison, design: Design) -> Reason:
    em, name = comparison.em, "em_difference_lower_bound"
    if isinstance(em, NotEstimable):
        return Reason(ReasonCode.NOT_ESTIMABLE, name, None, -design.margin, f"EM: {em.reason}.")
    shown = em.p_non_inferiority <= design.alpha
    message = (
        f"EM difference {_points(em.difference.value, sign=True)}, lower bound "
        f"{_points(em.lower_bound, sign=True)}: a loss of {_points(design.margin)} (the margin) is "
        f"{'excluded' if shown else 'not yet excluded'}."
    )
    code = ReasonCode.EM_WITHIN_MARGIN if shown else ReasonCode.EM_NOT_SHOWN
    return Reason(code, name, em.lower_bound, -design.margin, message)


def _saving_reason(comparison: Comparison, design: Design) -> Reason:
    tokens, name = comparison.decoded_tokens, "decoded_tokens_relative_upper_bound"
    if isinstance(tokens, NotEstimable):
        reason = f"decoded_tokens: {tokens.reason}."
        return Reason(ReasonCode.NOT_ESTIMABLE, name, None, -design.min_saving, reason)
    shown = tokens.p_saving <= design.alpha
    bound = tokens.relative_upper_bound
    shown_bound = "no bound yet" if isinstance(bound, NotEstimable) else f"upper bound {bound:+.1%}"
    # A negative minimum saving is an allowance, and is said as one.
    allowed = f"an increase of at most {-design.min_saving:.1%}"
    wanted = allowed if design.min_saving < 0 else f"a saving of at least {design.min_saving:.1%}"
    message = (
        f"decoded_tokens change by {tokens.relative_change.value:+.1%}, {shown_bound}: {wanted} "
        f"is {'shown' if shown else 'not yet shown'}."
    )
    code = ReasonCode.SAVING_SHOWN if shown else ReasonCode.SAVING_NOT_SHOWN
    value = None if isinstance(bound, NotEstimable) else bound
    return Reason(code, name, value, -design.min_saving, message)


def _contradiction(comparison: Comparison, design: Design) -> tuple[Reason, ...]:
    """An estimate of the loss at the margin or beyond, where the test of EM excludes it.

    The exact test keeps every label as it came; after corrections the estimate may say the opposite.
    """
    em = comparison.em
    if isinstance(em, NotEstimable) or em.p_non_inferiority > design.alpha or em.difference.value > -design.margin:
        return ()
    message = (
        f"The test excludes a loss of {_points(design.margin)} (the margin), but EM is estimated to change by "
        f"{_points(em.difference.value, sign=True)}: they contradict each other, as after corrected or late labels."
    )
    name = "em_difference"
    return (Reason(ReasonCode.ESTIMATE_BLOCKS_SHIP, name, em.difference.value, -design.margin, message),)


def _multiplicity(comparison: Comparison, p_adjusted: float, design: Design) -> tuple[Reason, ...]:
    if comparison.p_ship > design.alpha or p_adjusted <= design.alpha:
        return ()
    message = (
        f"Alone it would ship (p = {comparison.p_ship:.3g}), but not among all treatments: "
        f"Holm-adjusted p = {p_adjusted:.3g}, alpha = {design.alpha:g}."
    )
    return (Reason(ReasonCode.MULTIPLICITY, "p_ship_adjusted", p_adjusted, design.alpha, message),)


def _blocks(inputs: VerdictInputs) -> tuple[Reason, ...]:
    """What keeps any treatment from being shipped."""
    unhealthy = [
        Reason(ReasonCode.HEALTH_BLOCKS_SHIP, check.code.value, check.value, check.bound, check.message)
        for check in inputs.health.failures
    ]
    alarms = [
        Reason(ReasonCode.ALARM_BLOCKS_SHIP, item.metric.value, item.lower_bound, item.bound, item.message)
        for item in inputs.guardrails
        if item.breached and item.action is GuardrailAction.ALARM
    ]
    return (*unhealthy, *alarms)


def _maximum_reached(inputs: VerdictInputs) -> tuple[Reason, ...]:
    maximum, seen = inputs.design.maximum_units, inputs.total_units
    if maximum is not None and seen >= maximum:
        message = f"The declared maximum of {maximum} units is reached ({seen})."
        return (Reason(ReasonCode.MAXIMUM_REACHED, "total_units", seen, maximum, message),)
    if inputs.duration_reached:
        message = "The declared maximum duration is reached."
        return (Reason(ReasonCode.MAXIMUM_REACHED, "duration", None, None, message),)
    return ()


def _reverted_earlier(key: str) -> TreatmentVerdict:
    message = "Reverted in an earlier phase; it still counts among the treatments tested."
    reason = Reason(ReasonCode.REVERTED_EARLIER, "phase", None, None, message)
    return TreatmentVerdict(key, Decision.REVERT, 1.0, 1.0, (reason,))


def _overall(decisions: set[Decision]) -> Decision:
    for decision in (Decision.SHIP, Decision.KEEP_RUNNING, Decision.INCONCLUSIVE):
        if decision in decisions:
            return decision
    return Decision.REVERT


def _winner(inputs: VerdictInputs, verdicts: tuple[TreatmentVerdict, ...]) -> str:
    changes = {
        comparison.treatment: comparison.decoded_tokens.relative_change.value
        for comparison in inputs.comparisons
        if not isinstance(comparison.decoded_tokens, NotEstimable)
    }
    shipped = [item.treatment for item in verdicts if item.decision is Decision.SHIP]
    return min(shipped, key=lambda key: (changes[key], key))


def _points(value: float, *, sign: bool = False) -> str:
    return f"{value * 100:+.1f} points" if sign else f"{value * 100:.1f} points"
