"""Ramps: steps of coverage, each held for some time. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MAX_STEPS = 20
MAX_HOLD_SECONDS = 90 * 86_400


@dataclass(frozen=True, slots=True)
class Step:
    """A coverage, and for how many seconds it is held before the next."""

    coverage: float
    hold_seconds: int


def ramp_from_json(value: object) -> tuple[Step, ...]:
    """The steps of a JSON form: a list of objects with ``coverage`` and ``hold_seconds``.

    Raises:
        ValueError: it is none; the message names the step, the value and the bound.
    """
    if not isinstance(value, list) or len(value) > MAX_STEPS:
        raise ValueError(f"ramp must be a list of at most {MAX_STEPS} steps, got {value!r}")
    steps = tuple(_step(f"ramp[{number}]", item) for number, item in enumerate(value))
    for number in range(1, len(steps)):
        before, after = steps[number - 1].coverage, steps[number].coverage
        if after <= before:
            raise ValueError(f"ramp[{number}].coverage must be above the step before it, {before:g}, got {after:g}")
    return steps


def ramp_to_json(ramp: Sequence[Step]) -> list[dict[str, Any]]:
    """The JSON form."""
    return [{"coverage": step.coverage, "hold_seconds": step.hold_seconds} for step in ramp]


def next_coverage(ramp: Sequence[Step], coverage: float) -> float | None:
    """The coverage after this one; None when the ramp has reached its end."""
    return next((step.coverage for step in ramp if step.coverage > coverage), None)


def hold_seconds(ramp: Sequence[Step], coverage: float) -> int:
    """How long this coverage is held: as long as the step that it has reached, 0 before the first."""
    reached = [step.hold_seconds for step in ramp if step.coverage <= coverage]
    return reached[-1] if reached else 0


def _step(where: str, item: object) -> Step:
    if not isinstance(item, dict) or set(item) != {"coverage", "hold_seconds"}:
        raise ValueError(f"{where} must be an object with coverage and hold_seconds, got {item!r}")
    coverage, hold = item["coverage"], item["hold_seconds"]
    if isinstance(coverage, bool) or not isinstance(coverage, int | float) or not 0 < coverage <= 1:
        raise ValueError(f"{where}.coverage must be above 0 and at most 1, got {coverage!r}")
    if isinstance(hold, bool) or not isinstance(hold, int) or not 0 <= hold <= MAX_HOLD_SECONDS:
        raise ValueError(f"{where}.hold_seconds must be a whole number from 0 to {MAX_HOLD_SECONDS}, got {hold!r}")
    return Step(float(coverage), hold)
