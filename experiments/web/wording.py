"""Numbers, policies and states in words: fractions are shown as points and percent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from experiments.models import Experiment
from experiments.policies import POLICIES, policy_schema
from experiments.statistics.guardrails import ABSOLUTE, Guardrail, from_json
from experiments.statistics.verdict import Decision

MINUS = "\N{MINUS SIGN}"
DECISIONS: Mapping[Decision, str] = {
    Decision.SHIP: "Ship",
    Decision.REVERT: "Revert",
    Decision.KEEP_RUNNING: "Keep running",
    Decision.INCONCLUSIVE: "Inconclusive",
}
# Names of colours in the style sheet; the words carry the meaning, colour only repeats it.
DECISION_TONES: Mapping[Decision, str] = {
    Decision.SHIP: "good",
    Decision.REVERT: "bad",
    Decision.KEEP_RUNNING: "calm",
    Decision.INCONCLUSIVE: "warn",
}
STATE_TONES: Mapping[str, str] = {
    Experiment.State.DRAFT: "plain",
    Experiment.State.RUNNING: "live",
    Experiment.State.PAUSED: "warn",
    Experiment.State.STOPPED: "plain",
}


def number(value: float, digits: int = 0, *, sign: bool = False) -> str:
    """A number with thousands separators and a true minus sign."""
    # Adding 0.0 turns the -0.0 that rounding leaves into 0.0.
    text = f"{round(value, digits) + 0.0:{'+' if sign else ''},.{digits}f}"
    return minus(text)


def minus(text: str) -> str:
    """The text with a true minus sign before numbers; hyphens stay."""
    return re.sub(r"(?<!\w)-(?=\d)", MINUS, text)


def points(fraction: float, *, sign: bool = False) -> str:
    """A fraction as percentage points: 0.0123 is "1.2 points"."""
    return f"{number(100 * fraction, 1, sign=sign)} points"


def percent(fraction: float, digits: int = 1, *, sign: bool = False) -> str:
    """A fraction as percent: 0.0123 is "1.2%"."""
    return f"{number(100 * fraction, digits, sign=sign)}%"


def plain(value: float) -> str:
    """A number as a person would type it: 5, 0.25, 12.5."""
    return f"{value:.10g}"


def saving(fraction: float) -> str:
    """A minimum saving in words; a negative one allows a cost."""
    share = f"{plain(100 * abs(fraction))}%"
    return f"at least {share} fewer" if fraction >= 0 else f"at most {share} more"


def decision_words(decision: Decision, winner: str | None) -> str:
    """The verdict on an experiment as a headline."""
    return f"Ship {winner}" if decision is Decision.SHIP and winner else DECISIONS[decision]


def state_words(experiment: Experiment) -> str:
    """The state, with the conclusion of a stopped experiment."""
    label = Experiment.State(experiment.state).label
    if experiment.conclusion:
        return f"{label}: {Experiment.Conclusion(experiment.conclusion).label.lower()}"
    return label


def policy_words(spec: Mapping[str, Any]) -> str:
    """A policy in one line: its title and every parameter that is set, with units."""
    cls = POLICIES.get(spec["name"])
    if cls is None:
        return str(spec["name"])
    properties = policy_schema(cls)["properties"]
    parts = []
    for name, value in sorted(spec.get("parameters", {}).items(), key=lambda item: _place(properties, item[0])):
        unit = properties.get(name, {}).get("unit", "")
        if value is not None and value != "":
            shown = value if isinstance(value, str) else plain(value)
            parts.append(f"{label(name).lower()} {shown}{_unit_suffix(name, unit)}")
    return f"{cls.title}: {', '.join(parts)}" if parts else cls.title


def label(name: str) -> str:
    """The name of a parameter as a form shows it: probe_every is "Probe every"."""
    return name.replace("_", " ").capitalize()


def _place(properties: Mapping[str, Any], name: str) -> int:
    """A parameter's place in its declaration; a stored mapping loses the order."""
    return list(properties).index(name) if name in properties else len(properties)


def _unit_suffix(name: str, unit: str) -> str:
    """The unit behind a count, unless the name says it already."""
    return f" {unit}" if unit in ("tokens", "probes") and not name.endswith(unit) else ""


def guardrail_words(declared: object) -> str:
    """Declared guardrails in one line."""
    return "; ".join(_guardrail(item) for item in from_json(declared)) or "none"


def _guardrail(item: Guardrail) -> str:
    name = item.metric.value.replace("_", " ")
    if item.seconds is not None:
        return f"99% of the requests within {plain(item.seconds)} s"
    if item.metric in ABSOLUTE:
        return f"{name} at most {percent(item.bound)}"
    return f"{name} at most {points(item.bound)} above the control"
