"""Health of an experiment: it can block a ship, never a revert."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from experiments.statistics import sequential
from experiments.statistics.arms import ArmAggregates
from experiments.statistics.design import Design
from experiments.statistics.srm import SequentialSRM

BOUND = 0.001


class HealthCode(StrEnum):
    """What is checked."""

    SAMPLE_RATIO = "sample_ratio"
    LABEL_RATE = "label_rate"
    ENFORCEMENT = "enforcement"


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """One check.

    Attributes:
        code: what was checked.
        passed: False blocks a ship.
        value: a p-value (sample_ratio, label_rate: fails below the bound) or a share of completions
            (enforcement: fails above it); None where there is nothing to check yet.
        bound: the bound on `value`.
        message: one sentence with the numbers.
    """

    code: HealthCode
    passed: bool
    value: float | None
    bound: float
    message: str


@dataclass(frozen=True, slots=True)
class Health:
    """All checks of a look."""

    checks: tuple[HealthCheck, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def failures(self) -> tuple[HealthCheck, ...]:
        return tuple(check for check in self.checks if not check.passed)


def assess(srm: SequentialSRM, control: ArmAggregates, treatments: Sequence[ArmAggregates], design: Design) -> Health:
    """The health of a look: sample ratio of first exposures, label rate by arm, enforcement; bound .001 each.

    Args:
        srm: state of the sequential test after this look's exposures.
        control: the control arm.
        treatments: the running treatments, at least one.
        design: gives N* of the label-rate test.
    """
    return Health(
        (
            _sample_ratio(srm),
            _label_rate(control, treatments, design),
            _enforcement((control, *treatments)),
        )
    )


def _sample_ratio(srm: SequentialSRM) -> HealthCheck:
    passed = srm.p_value >= BOUND
    shown = ", ".join(f"{key} {srm.counts[key]}" for key in sorted(srm.counts))
    verb = "agree with" if passed else "contradict"
    message = f"Exposures ({shown}) {verb} the declared weights: always-valid p = {srm.p_value:.3g}."
    return HealthCheck(HealthCode.SAMPLE_RATIO, passed, srm.p_value, BOUND, message)


def _label_rate(control: ArmAggregates, treatments: Sequence[ArmAggregates], design: Design) -> HealthCheck:
    """Bonferroni over treatments of always-valid tests that label rates are equal to the control's."""
    rates = ", ".join(f"{arm.key} {arm.labelled_completions}/{arm.due}" for arm in (control, *treatments))
    if any(arm.due == 0 for arm in (control, *treatments)):
        message = f"Label rates ({rates}) cannot be compared yet: an arm has no completion to be labelled."
        return HealthCheck(HealthCode.LABEL_RATE, True, None, BOUND, message)
    p_values = [label_rate_p_value(control, arm, design.tuning_n) for arm in treatments]
    p = min(1.0, min(p_values) * len(p_values))
    passed = p >= BOUND
    verb = "do not differ detectably" if passed else "differ"
    message = f"Label rates ({rates}) {verb} between arms: always-valid p = {p:.3g}."
    return HealthCheck(HealthCode.LABEL_RATE, passed, p, BOUND, message)


def label_rate_p_value(control: ArmAggregates, treatment: ArmAggregates, tuning_n: float) -> float:
    """Always-valid two-sided p-value of equal label rates in two arms with completions.

    Labels may miss for whole units, so a unit counts as one observation whatever its completions; the
    variance of each rate p is p(1-p)/(k+2) with p smoothed by one success and one failure (Agresti and Caffo
    2000), so that a rate of 0 or 1 is no certainty.
    """
    rates, variance, units = [], 0.0, 0
    for arm in (control, treatment):
        k, rate = min(arm.decoded_tokens.units, arm.due), arm.labelled_completions / arm.due
        smoothed = (rate * k + 1) / (k + 2)
        rates.append(rate)
        variance += smoothed * (1 - smoothed) / (k + 2)
        units += k
    return sequential.always_valid_p(rates[1] - rates[0], math.sqrt(variance), units, tuning_n, BOUND)


def _enforcement(arms: Sequence[ArmAggregates]) -> HealthCheck:
    seen = [arm for arm in arms if arm.completions > 0]
    if not seen:
        message = "Enforcement cannot be judged yet: there is no completion."
        return HealthCheck(HealthCode.ENFORCEMENT, True, None, BOUND, message)
    worst = max(seen, key=lambda arm: arm.enforcement_failures / arm.completions)
    share = worst.enforcement_failures / worst.completions
    message = (
        f"The assigned policy was not in effect for {worst.enforcement_failures} of {worst.completions} "
        f"completions of {worst.key} ({share:.2%}; at most {BOUND:.1%})."
    )
    return HealthCheck(HealthCode.ENFORCEMENT, share <= BOUND, share, BOUND, message)
