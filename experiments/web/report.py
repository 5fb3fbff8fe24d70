"""The results page's contents: a snapshot as words, so that the template only places them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from experiments.models import Variant
from experiments.statistics.comparison import Comparison, EMContrast, TokenContrast
from experiments.statistics.guardrails import GuardrailResult
from experiments.statistics.health import HealthCode
from experiments.statistics.results import Estimate, Interval, NotEstimable
from experiments.statistics.snapshot import ArmSummary, Snapshot
from experiments.statistics.verdict import Decision, TreatmentVerdict
from experiments.web.definitions import DEFINITIONS
from experiments.web.wording import (
    DECISION_TONES,
    DECISIONS,
    decision_words,
    minus,
    number,
    percent,
    points,
    policy_words,
)

KINDS = ("thinking", "answer", "probe", "overrun")
Words = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Figure:
    """An estimate in words. Where there is none, ``reason`` says why; ``missing`` for its interval alone."""

    text: str = ""
    interval: str = ""
    missing: str = ""
    level: str = ""
    hint: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Kind:
    """Mean tokens of one kind per completion, and what the kind means."""

    key: str
    text: str
    meaning: str


@dataclass(frozen=True, slots=True)
class ArmRow:
    """One row of the table. The control has no contrasts and no verdict: those are None."""

    key: str
    is_control: bool
    policy: str
    checkpoint: str
    units: str
    completions: str
    labelled: str
    labelled_share: str
    em: Figure
    tokens: Figure
    tokens_without_probes: Figure
    kinds: tuple[Kind, ...]
    em_difference: Figure | None
    change: Figure | None
    change_without_probes: Figure | None
    verdict: str
    tone: str


@dataclass(frozen=True, slots=True)
class VerdictCard:
    """The verdict on one treatment with its reasons, the deciding one first."""

    treatment: str
    verdict: str
    tone: str
    summary: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HealthItem:
    """One check in words; ``tone`` is good, bad (blocks shipping) or warn (blocks nothing)."""

    title: str
    tone: str
    figures: str
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that the results page says about one snapshot."""

    headline: str
    tone: str
    explanation: str
    cards: tuple[VerdictCard, ...]
    arms: tuple[ArmRow, ...]
    health: tuple[HealthItem, ...]
    healthy: bool
    guardrails: tuple[HealthItem, ...]
    breached: bool


_EXPLANATIONS: Mapping[Decision, str] = {
    Decision.SHIP: "It is shown, each at its error rate, that EM stays within the margin and that enough "
    "decoded tokens are saved.",
    Decision.REVERT: "For every treatment it is shown that EM falls by more than the margin, or that a guardrail "
    "is breached.",
    Decision.KEEP_RUNNING: "The data do not decide yet. Looking again later costs nothing: the intervals stay valid.",
    Decision.INCONCLUSIVE: "The declared maximum is reached and the data have not decided.",
}
_HEALTH_TERMS: Mapping[HealthCode, str] = {
    HealthCode.SAMPLE_RATIO: "srm",
    HealthCode.LABEL_RATE: "label_rate",
    HealthCode.LATE_LABELS: "late_labels",
    HealthCode.CORRECTED_LABELS: "corrected_labels",
    HealthCode.ENFORCEMENT: "enforcement",
}


_SHARES = {HealthCode.LATE_LABELS, HealthCode.CORRECTED_LABELS, HealthCode.ENFORCEMENT}


def build_report(snapshot: Snapshot, variants: Sequence[Variant]) -> Report:
    """The snapshot in words; ``variants`` add each arm's policy and checkpoint (with its model)."""
    comparisons = {comparison.treatment: comparison for comparison in snapshot.comparisons}
    verdicts = {item.treatment: item for item in snapshot.verdict.treatments}
    by_key = {variant.key: variant for variant in variants}
    decision = snapshot.verdict.decision
    return Report(
        headline=decision_words(decision, snapshot.verdict.winner),
        tone=DECISION_TONES[decision],
        explanation=_EXPLANATIONS[decision],
        cards=tuple(_card(item, comparisons.get(item.treatment)) for item in snapshot.verdict.treatments),
        arms=tuple(
            _row(arm, by_key.get(arm.key), comparisons.get(arm.key), verdicts.get(arm.key)) for arm in snapshot.arms
        ),
        health=(*_checks(snapshot), _unfinished(snapshot)),
        healthy=snapshot.health.passed,
        guardrails=tuple(_guardrail(item) for item in snapshot.guardrails),
        breached=any(item.breached for item in snapshot.guardrails),
    )


def _guardrail(item: GuardrailResult) -> HealthItem:
    name = item.metric.value.replace("_", " ").capitalize()
    title = name if item.treatment is None else f"{name}, {item.treatment}"
    figures = "nothing to check yet"
    if item.excess is not None and item.lower_bound is not None:
        words = percent if item.control_value is None else points
        figures = f"{words(item.excess, sign=item.control_value is not None)}, at most {words(item.bound)}"
    hint = f"Tested at {percent(item.alpha, 2)} over all looks ({item.method.replace('_', ' ')})."
    return HealthItem(title, "bad" if item.breached else "good", figures, minus(item.message), hint)


def em_figure(comparison: Comparison) -> Figure:
    """EM difference in points."""
    if isinstance(comparison.em, NotEstimable):
        return Figure(reason=comparison.em.reason)
    return _figure(comparison.em.difference, _signed_points, unit="points")


def change_figure(contrast: TokenContrast | NotEstimable) -> Figure:
    """Relative token change in percent."""
    if isinstance(contrast, NotEstimable):
        return Figure(reason=contrast.reason)
    return _figure(contrast.relative_change, _signed_percent, unit="")


def summary_words(comparison: Comparison | None) -> str:
    """Both metrics of a treatment in one line."""
    if comparison is None:
        return ""
    em = "EM difference not estimable"
    if isinstance(comparison.em, EMContrast):
        em = f"EM {points(comparison.em.difference.value, sign=True)}"
    tokens = "token change not estimable"
    if isinstance(comparison.decoded_tokens, TokenContrast):
        tokens = f"decoded tokens {percent(comparison.decoded_tokens.relative_change.value, sign=True)}"
    return f"{em}, {tokens}"


def _card(verdict: TreatmentVerdict, comparison: Comparison | None) -> VerdictCard:
    return VerdictCard(
        treatment=verdict.treatment,
        verdict=DECISIONS[verdict.decision],
        tone=DECISION_TONES[verdict.decision],
        summary=summary_words(comparison),
        reasons=tuple(minus(reason.message) for reason in verdict.reasons),
    )


def _row(
    arm: ArmSummary, variant: Variant | None, comparison: Comparison | None, verdict: TreatmentVerdict | None
) -> ArmRow:
    share = percent(arm.labelled_completions / arm.completions) if arm.completions else ""
    return ArmRow(
        key=arm.key,
        is_control=arm.is_control,
        policy=policy_words(variant.policy) if variant else "",
        checkpoint=str(variant.checkpoint) if variant else "",
        units=number(arm.exposures),
        completions=number(arm.completions),
        labelled=number(arm.labelled_completions),
        labelled_share=share,
        em=_estimate(arm.em, percent, unit=""),
        tokens=_estimate(arm.decoded_tokens, _tokens, unit=""),
        tokens_without_probes=_estimate(arm.tokens_without_probes, _tokens, unit=""),
        kinds=_kinds(arm),
        em_difference=em_figure(comparison) if comparison else None,
        change=change_figure(comparison.decoded_tokens) if comparison else None,
        change_without_probes=change_figure(comparison.tokens_without_probes) if comparison else None,
        verdict=DECISIONS[verdict.decision] if verdict else "",
        tone=DECISION_TONES[verdict.decision] if verdict else "plain",
    )


def _kinds(arm: ArmSummary) -> tuple[Kind, ...]:
    if arm.token_means is None or not arm.completions:
        return ()
    means = arm.token_means
    return tuple(Kind(kind, number(getattr(means, kind), 1), DEFINITIONS[kind].meaning) for kind in KINDS)


def _estimate(estimate: Estimate | NotEstimable, words: Words, *, unit: str) -> Figure:
    if isinstance(estimate, NotEstimable):
        return Figure(reason=estimate.reason)
    return _figure(estimate, words, unit=unit)


def _figure(estimate: Estimate, words: Words, *, unit: str) -> Figure:
    interval = estimate.interval
    text = words(estimate.value)
    if not isinstance(interval, Interval):
        return Figure(text=text, missing=interval.reason)
    lower, upper = (words(end).removesuffix(f" {unit}") for end in (interval.lower, interval.upper))
    definition = DEFINITIONS["anytime" if estimate.anytime_valid else "fixed"]
    level = percent(interval.level, 0)
    method = estimate.method.replace("_", " ")
    kind = "anytime-valid" if estimate.anytime_valid else "fixed-sample"
    return Figure(
        text=text,
        interval=f"{lower} to {upper}",
        level=f"{kind} {level} interval",
        hint=f"{kind.capitalize()} {level} interval ({method}). {definition.meaning}",
    )


def _checks(snapshot: Snapshot) -> tuple[HealthItem, ...]:
    items = []
    for check in snapshot.health.checks:
        definition = DEFINITIONS[_HEALTH_TERMS[check.code]]
        if check.value is None:
            figures = "nothing to check yet"
        elif check.code in _SHARES:
            figures = f"{percent(check.value, 2)}, at most {percent(check.bound)}"
        else:
            figures = f"p = {check.value:.3g}, at least {check.bound:g}"
        tone = "good" if check.passed else "bad"
        items.append(HealthItem(definition.term, tone, figures, minus(check.message), definition.meaning))
    return tuple(items)


def _unfinished(snapshot: Snapshot) -> HealthItem:
    """Requests that were not answered. They block nothing: the arms are compared as they were assigned."""
    definition = DEFINITIONS["unfinished"]
    counts = {
        kind: sum(getattr(arm.outcomes, field) for arm in snapshot.arms)
        for kind, field in (("errors", "error"), ("timeouts", "timeout"), ("cancelled", "cancelled"))
    }
    by_arm = ", ".join(
        f"{arm.key} {number(arm.completions - arm.outcomes.answered)} of {number(arm.completions)}"
        for arm in snapshot.arms
    )
    figures = ", ".join(f"{kind} {number(count)}" for kind, count in counts.items())
    tone = "warn" if any(counts.values()) else "good"
    return HealthItem(definition.term, tone, figures, f"By arm: {by_arm}.", definition.meaning)


def _tokens(value: float) -> str:
    return number(value, 1)


def _signed_points(value: float) -> str:
    return points(value, sign=True)


def _signed_percent(value: float) -> str:
    return percent(value, sign=True)
