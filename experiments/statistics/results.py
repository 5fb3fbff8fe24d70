"""The values that every method returns: an interval, an estimate, or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass

from experiments.statistics import checks


@dataclass(frozen=True, slots=True)
class NotEstimable:
    """Stands where a number would be, with the reason why there is none."""

    reason: str

    def __post_init__(self) -> None:
        if not self.reason:
            raise ValueError("reason must not be empty")


@dataclass(frozen=True, slots=True)
class Interval:
    """A two-sided interval in the units of its estimate: `lower` <= `upper`, nominal coverage `level`."""

    lower: float
    upper: float
    level: float

    def __post_init__(self) -> None:
        checks.finite("lower", self.lower)
        checks.finite("upper", self.upper)
        checks.fraction("level", self.level)
        if self.lower > self.upper:
            raise ValueError(f"lower must be <= upper, got {self.lower} > {self.upper}")

    def __contains__(self, value: float) -> bool:
        return self.lower <= value <= self.upper


@dataclass(frozen=True, slots=True)
class Estimate:
    """A point estimate with its uncertainty.

    Attributes:
        value: the estimate (a fraction for EM and for relative changes, tokens for token means).
        se: standard error, same units, >= 0.
        interval: two-sided interval, or the reason why there is none.
        method: how the interval was made, e.g. "asymptotic_confidence_sequence".
        anytime_valid: True when the interval holds at every look, False when only at a fixed sample size.
        units: randomised units behind the estimate (both arms for a contrast).
        observations: completions behind it (both arms for a contrast).
    """

    value: float
    se: float
    interval: Interval | NotEstimable
    method: str
    anytime_valid: bool
    units: int
    observations: int

    def __post_init__(self) -> None:
        checks.finite("value", self.value)
        checks.non_negative("se", self.se)
        checks.count("units", self.units)
        checks.count("observations", self.observations)
