"""What an experiment declares beyond its question: guardrails, segments, labels, shadow runs, whom to tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import transaction

from experiments.assignment import BUCKETS
from experiments.models import Experiment, Label
from experiments.ramp import ramp_from_json, ramp_to_json
from experiments.segment_names import SEGMENT
from experiments.services import audit
from experiments.services.errors import InvalidInput, WrongState
from experiments.statistics import guardrails as rails
from experiments.statistics.guardrails import Guardrail, GuardrailMetric

# What no team wants more of, whatever it asks: they need no label, so they act first.
DEFAULT_GUARDRAILS = (
    Guardrail(GuardrailMetric.EMPTY, 0.02),
    Guardrail(GuardrailMetric.TRUNCATED, 0.05),
    Guardrail(GuardrailMetric.ERROR, 0.02),
)
MAX_NAMES = 20
_DAY = 86_400


@transaction.atomic
def declare(actor: str, experiment: Experiment, changes: Mapping[str, Any]) -> Experiment:
    """Change what a draft declares.

    Args:
        actor: who.
        experiment: a draft.
        changes: new values of `automatic`, `guardrails`, `segments`, `false_revert_alpha`, `estimand_source`,
            `audit_every`, `proxy_source`, `shadow_share`, `label_window_seconds`, `maximum_days`, `owner_email`,
            `coverage`, `ramp`, `layer` or `layer_range`. A ramp sets the coverage to that of its first step.

    Raises:
        WrongState: it has been started; what decides can't be changed any more.
        InvalidInput: a name is unknown or a value is not allowed; nothing is changed.
    """
    row = Experiment.objects.select_for_update().get(pk=experiment.pk)
    if row.state != Experiment.State.DRAFT:
        raise WrongState(f"experiment {row.name!r} is {row.state}, this needs it to be draft")
    if unknown := sorted(set(changes) - set(_CHECKS)):
        raise InvalidInput(f"{unknown[0]} must be one of {', '.join(sorted(_CHECKS))}", unknown[0])
    before = {name: getattr(row, name) for name in changes}
    for name, value in changes.items():
        setattr(row, name, _CHECKS[name](value))
    if row.estimand_source == Label.Source.AUDIT and row.audit_every == 0:
        raise InvalidInput("audit_every must be at least 1 where EM is measured by the audit, got 0", "audit_every")
    _start_ramp(row, changes)
    if not row.layer and row.layer_range != [0, BUCKETS]:
        raise InvalidInput(f"layer_range must be [0, {BUCKETS}] without a layer, got {row.layer_range}", "layer_range")
    row.save()
    after = {name: getattr(row, name) for name in changes}
    audit.record(actor, "declare", row, before=before, after=after)
    return row


def _start_ramp(row: Experiment, changes: Mapping[str, Any]) -> None:
    if not row.ramp:
        return
    first = row.ramp[0]["coverage"]
    if "coverage" in changes and row.coverage != first:
        raise InvalidInput(
            f"coverage must be that of the ramp's first step, {first:g}, got {row.coverage!r}", "coverage"
        )
    row.coverage = first


def _ramp(value: object) -> list[dict[str, Any]]:
    try:
        return ramp_to_json(ramp_from_json(value))
    except ValueError as error:
        raise InvalidInput(str(error), "ramp") from error


def _layer(value: object) -> str:
    if not isinstance(value, str) or (value and not SEGMENT.fullmatch(value)):
        raise InvalidInput(f"layer must be at most 40 letters, digits, . - and _, got {value!r}", "layer")
    return value


def _layer_range(value: object) -> list[int]:
    whole = isinstance(value, list) and len(value) == 2 and all(type(bucket) is int for bucket in value)
    if not isinstance(value, list) or not whole or not 0 <= value[0] < value[1] <= BUCKETS:
        raise InvalidInput(
            f"layer_range must be two whole numbers [low, high) with 0 <= low < high <= {BUCKETS}, got {value!r}",
            "layer_range",
        )
    return value


def _guardrails(value: object) -> list[dict[str, Any]]:
    try:
        return rails.to_json(rails.from_json(value))
    except (ValueError, TypeError) as error:
        raise InvalidInput(str(error), "guardrails") from error


def _segments(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) and SEGMENT.fullmatch(item) for item in value):
        raise InvalidInput(f"segments must be a list of 1 to 40 letters, digits, . - and _, got {value!r}", "segments")
    if len(set(value)) < len(value) or len(value) > MAX_NAMES:
        raise InvalidInput(f"segments must be at most {MAX_NAMES} different names, got {value!r}", "segments")
    return list(value)


def _one_of(name: str, *allowed: str) -> Callable[[object], str]:
    def check(value: object) -> str:
        if value not in allowed:
            names = ", ".join(repr(str(item)) for item in allowed)
            raise InvalidInput(f"{name} must be one of {names}, got {value!r}", name)
        return str(value)

    return check


def _integer(name: str, low: int, high: int) -> Callable[[object], int]:
    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise InvalidInput(f"{name} must be a whole number from {low} to {high}, got {value!r}", name)
        return value

    return check


def _days(value: object) -> int | None:
    return None if value is None else _integer("maximum_days", 1, 3_650)(value)


def _share(name: str) -> Callable[[object], float]:
    def check(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise InvalidInput(f"{name} must be from 0 to 1, got {value!r}", name)
        return float(value)

    return check


def _false_revert_alpha(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 0.5:
        raise InvalidInput(f"false_revert_alpha must be in (0, 0.5), got {value!r}", "false_revert_alpha")
    return float(value)


def _email(value: object) -> str:
    if value == "":
        return ""
    try:
        validate_email(str(value))
    except ValidationError as error:
        raise InvalidInput(f"owner_email must be an e-mail address, got {value!r}", "owner_email") from error
    return str(value)


def _automatic(value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput(f"automatic must be true or false, got {value!r}", "automatic")
    return value


_CHECKS: Mapping[str, Callable[[object], Any]] = {
    "automatic": _automatic,
    "guardrails": _guardrails,
    "segments": _segments,
    "false_revert_alpha": _false_revert_alpha,
    "estimand_source": _one_of("estimand_source", Label.Source.REFERENCE, Label.Source.AUDIT),
    "audit_every": _integer("audit_every", 0, 1_000_000),
    "proxy_source": _one_of("proxy_source", "", Label.Source.JUDGE, Label.Source.FEEDBACK, Label.Source.AGREEMENT),
    "shadow_share": _share("shadow_share"),
    "label_window_seconds": _integer("label_window_seconds", 0, 90 * _DAY),
    "maximum_days": _days,
    "owner_email": _email,
    "coverage": _share("coverage"),
    "ramp": _ramp,
    "layer": _layer,
    "layer_range": _layer_range,
}
