"""Guardrails: metrics whose breach reverts an arm, at any sample size and at every look."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from experiments.statistics import checks, sequential
from experiments.statistics.aggregates import ClusterAggregate
from experiments.statistics.proportions import require_proportion, smoothed_variance
from experiments.statistics.results import NotEstimable
from experiments.statistics.safe_proportions import SafeDifference


class GuardrailMetric(StrEnum):
    """What is watched: shares of an arm's requests, of its shadowed pairs, or of those with feedback."""

    EMPTY = "empty"
    TRUNCATED = "truncated"
    ERROR = "error"
    RETRIED = "retried"
    NEGATIVE_FEEDBACK = "negative_feedback"
    DISAGREEMENT = "disagreement"
    SLOW = "slow"


class GuardrailAction(StrEnum):
    """What a breach does."""

    REVERT = "revert"
    ALARM = "alarm"


# Metrics that are held against a bound of their own; the others are held against the control's share.
ABSOLUTE = frozenset({GuardrailMetric.DISAGREEMENT, GuardrailMetric.SLOW})
# All arms share the engine's batches, so slowness cannot be laid at one arm's door.
ENGINE_WIDE = frozenset({GuardrailMetric.SLOW})
# The 99th percentile is beyond its bound when more than this share of the requests is.
_SLOW_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class Guardrail:
    """One declared guardrail.

    Attributes:
        metric: what is watched.
        bound: largest tolerated increase over the control's share, a fraction in (0, 1); of `disagreement` the
            largest tolerated share itself; of `slow` it is 0.01, for a 99th percentile.
        action: revert the arm, or only raise the alarm. `slow` can only raise the alarm: it names no arm.
        seconds: of `slow`, the bound on the 99th percentile of the latency in seconds, > 0; None otherwise.
    """

    metric: GuardrailMetric
    bound: float
    action: GuardrailAction = GuardrailAction.REVERT
    seconds: float | None = None

    def __post_init__(self) -> None:
        checks.fraction(f"guardrails.{self.metric}.bound", self.bound)
        if (self.seconds is not None) != (self.metric is GuardrailMetric.SLOW):
            raise ValueError(f"guardrails.{self.metric}.seconds goes with slow, and only with it, got {self.seconds}")
        if self.seconds is not None:
            checks.positive(f"guardrails.{self.metric}.seconds", self.seconds)
        if self.metric in ENGINE_WIDE and self.action is not GuardrailAction.ALARM:
            raise ValueError(f"guardrails.{self.metric}.action must be alarm (it names no arm), got {self.action}")


def from_json(data: object) -> tuple[Guardrail, ...]:
    """Guardrails from their stored form: a list of objects with `metric`, `bound`, `action`, `seconds`.

    Raises:
        ValueError: the form or a value is wrong; the message names it and what is allowed.
    """
    if not isinstance(data, Sequence) or isinstance(data, str):
        raise ValueError(f"guardrails must be a list, got {data!r}")
    guardrails = tuple(_one_from_json(item) for item in data)
    metrics = [guardrail.metric for guardrail in guardrails]
    if len(set(metrics)) != len(metrics):
        raise ValueError(f"guardrails must name each metric once, got {[metric.value for metric in metrics]}")
    return guardrails


def _one_from_json(item: object) -> Guardrail:
    if not isinstance(item, Mapping) or not set(item) <= {"metric", "bound", "action", "seconds"}:
        raise ValueError(f"a guardrail must have metric, bound, and may have action and seconds, got {item!r}")
    try:
        metric = GuardrailMetric(item.get("metric", ""))
    except ValueError:
        allowed = ", ".join(GuardrailMetric)
        raise ValueError(f"guardrails.metric must be one of {allowed}, got {item.get('metric')!r}") from None
    slow = metric is GuardrailMetric.SLOW
    action = item.get("action", GuardrailAction.ALARM if slow else GuardrailAction.REVERT)
    if action not in list(GuardrailAction):
        raise ValueError(f"guardrails.{metric}.action must be revert or alarm, got {action!r}")
    bound = item.get("bound", _SLOW_SHARE if slow else None)
    if bound is None:
        raise ValueError(f"guardrails.{metric}.bound is missing: a fraction in (0, 1)")
    return Guardrail(metric, bound, GuardrailAction(action), item.get("seconds"))


def slow_after(data: object) -> float | None:
    """Seconds after which a request is slow, by the stored form of the guardrails; None without that guardrail."""
    return next((item.seconds for item in from_json(data) if item.metric is GuardrailMetric.SLOW), None)


@dataclass(frozen=True, slots=True)
class GuardrailResult:
    """One guardrail at one look.

    Attributes:
        metric: what is watched.
        treatment: key of the arm, or None where the metric is engine-wide.
        action: what a breach does.
        value: the arm's share, a fraction; or why there is none.
        control_value: the control's share, or None where the bound is absolute.
        excess: value - control_value, or value: what is held against the bound.
        lower_bound: one-sided anytime-valid lower bound of the excess at `alpha`.
        bound: declared bound of the excess.
        alpha: its share of the arm's false-revert probability.
        breached: whether the excess is shown to be beyond the bound.
        observations: requests (or pairs) of the arm behind it.
        method: how the lower bound was made.
        message: one sentence with the numbers.
    """

    metric: GuardrailMetric
    treatment: str | None
    action: GuardrailAction
    value: float | NotEstimable
    control_value: float | None
    excess: float | None
    lower_bound: float | None
    bound: float
    alpha: float
    breached: bool
    observations: int
    method: str
    message: str


def judge(
    guardrail: Guardrail,
    treatment: str | None,
    watched: ClusterAggregate,
    control: ClusterAggregate | None,
    alpha: float,
    tuning_n: float,
    process: SafeDifference | None = None,
) -> GuardrailResult:
    """Holds one arm against one guardrail.

    Args:
        guardrail: what is declared.
        treatment: key of the arm, None where the metric is engine-wide.
        watched: 0/1 outcomes of the arm (of all arms, where engine-wide), units as clusters.
        control: the control's, or None where the bound is absolute.
        alpha: probability of a wrong breach over all looks.
        tuning_n: N* of the sequences.
        process: the exact e-process of this metric where units have one request each; it decides then.
    """
    for side in (watched, control):
        if side is not None and side.units < 2:
            return _missing(guardrail, treatment, alpha, f"at least 2 units are needed, got {side.units}")
        if side is not None and side.sum_n == 0:
            return _missing(guardrail, treatment, alpha, f"{side.units} units have no request")
    require_proportion(guardrail.metric, watched)
    value = watched.mean
    control_value = None if control is None else control.mean
    excess = value - (control_value or 0.0)
    if process is not None:
        lower, method = process.lower_bound(alpha), "exact_e_process"
        breached = process.p_value(guardrail.bound, "greater") <= alpha
    else:
        lower, method = _asymptotic(watched, control, excess, alpha, tuning_n), "asymptotic_confidence_sequence"
        breached = lower > guardrail.bound
    return GuardrailResult(
        metric=guardrail.metric,
        treatment=treatment,
        action=guardrail.action,
        value=value,
        control_value=control_value,
        excess=excess,
        lower_bound=lower,
        bound=guardrail.bound,
        alpha=alpha,
        breached=breached,
        observations=round(watched.sum_n),
        method=method,
        message=_message(guardrail, treatment, value, control_value, lower, breached),
    )


def _asymptotic(
    watched: ClusterAggregate, control: ClusterAggregate | None, excess: float, alpha: float, tuning_n: float
) -> float:
    variance, units = smoothed_variance(watched), watched.units
    if control is not None:
        variance, units = variance + smoothed_variance(control), units + control.units
    return max(-1.0, sequential.lower_bound(excess, math.sqrt(variance), units, tuning_n, alpha))


def _missing(guardrail: Guardrail, treatment: str | None, alpha: float, reason: str) -> GuardrailResult:
    return GuardrailResult(
        metric=guardrail.metric,
        treatment=treatment,
        action=guardrail.action,
        value=NotEstimable(reason),
        control_value=None,
        excess=None,
        lower_bound=None,
        bound=guardrail.bound,
        alpha=alpha,
        breached=False,
        observations=0,
        method="none",
        message=f"{_NAMES[guardrail.metric]} cannot be judged yet: {reason}.",
    )


_NAMES = {
    GuardrailMetric.EMPTY: "Empty answers",
    GuardrailMetric.TRUNCATED: "Truncated answers",
    GuardrailMetric.ERROR: "Errors and timeouts",
    GuardrailMetric.RETRIED: "Retried requests",
    GuardrailMetric.NEGATIVE_FEEDBACK: "Negative feedback",
    GuardrailMetric.DISAGREEMENT: "Disagreement with the full answer",
    GuardrailMetric.SLOW: "Slow requests",
}


def _message(
    guardrail: Guardrail, treatment: str | None, value: float, control_value: float | None, lower: float, breached: bool
) -> str:
    name, whose = _NAMES[guardrail.metric], "all arms" if treatment is None else treatment
    verb = "beyond" if breached else "not shown to be beyond"
    if control_value is None:
        limit = f" slower than {guardrail.seconds:g} s" if guardrail.seconds is not None else ""
        return (
            f"{name} of {whose}: {value:.2%}{limit}, at least {max(lower, 0.0):.2%}, {verb} the bound of "
            f"{guardrail.bound:.1%}."
        )
    increase = f"an increase of at least {lower * 100:.2f} points" if lower > 0 else "no increase shown"
    return (
        f"{name} of {whose}: {value:.2%} against {control_value:.2%} of the control, {increase}, {verb} the bound of "
        f"{guardrail.bound * 100:.1f} points."
    )


def assess(
    guardrails: Sequence[Guardrail],
    control: Mapping[GuardrailMetric, ClusterAggregate],
    treatments: Mapping[str, Mapping[GuardrailMetric, ClusterAggregate]],
    alpha: float,
    tuning_n: float,
    processes: Mapping[str, Mapping[GuardrailMetric, SafeDifference]],
) -> tuple[GuardrailResult, ...]:
    """All guardrails at one look: by treatment, engine-wide ones once.

    Args:
        guardrails: what is declared.
        control: 0/1 outcomes of the control by metric.
        treatments: the same of each treatment, by its key.
        alpha: probability of a wrong breach of one guardrail of one treatment, over all looks.
        tuning_n: N* of the sequences.
        processes: exact tests by treatment and metric.
    """
    results = []
    for guardrail in guardrails:
        metric = guardrail.metric
        if metric in ENGINE_WIDE:
            sides = [side[metric] for side in (control, *treatments.values()) if metric in side]
            together = sum(sides[1:], sides[0]) if sides else ClusterAggregate.empty()
            results.append(judge(guardrail, None, together, None, alpha, tuning_n))
            continue
        against = None if metric in ABSOLUTE else control.get(metric, ClusterAggregate.empty())
        for key, watched in treatments.items():
            own = watched.get(metric, ClusterAggregate.empty())
            process = processes.get(key, {}).get(metric)
            results.append(judge(guardrail, key, own, against, alpha, tuning_n, process))
    return tuple(results)


def to_json(guardrails: Sequence[Guardrail]) -> list[dict[str, Any]]:
    """The stored form; `from_json` inverts it."""
    return [
        {"metric": item.metric.value, "bound": item.bound, "action": item.action.value, "seconds": item.seconds}
        for item in guardrails
    ]
