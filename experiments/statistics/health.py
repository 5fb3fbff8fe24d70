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
# Where wrong answers are labelled sooner than right ones, what came late is missing from the looks before it, and a
# test that depends on the order of its data never forgets that. With a share s late in both arms, a difference of the
# labels in time is at most 1 / (1 - s) of the true one: at 2 %, a fiftieth of the margin more. Shares that differ
# between arms are what the label rates show.
LATE_BOUND = 0.02
# A corrected label stays in the exact test as it was: an arm's EM and the test differ by at most this share.
CORRECTED_BOUND = 0.01


class HealthCode(StrEnum):
    """What is checked."""

    SAMPLE_RATIO = "sample_ratio"
    LABEL_RATE = "label_rate"
    LATE_LABELS = "late_labels"
    CORRECTED_LABELS = "corrected_labels"
    ENFORCEMENT = "enforcement"


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """One check.

    Attributes:
        code: what was checked.
        passed: False blocks a ship.
        value: a p-value (sample_ratio, label_rate: fails below the bound) or the share in the worst arm of its labels
            (late_labels, corrected_labels) or completions (enforcement), which fails above it; None where there is
            nothing to check yet.
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
    """The health of a look: sample ratio of first exposures, label rate by arm, labels late or corrected, enforcement.

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
            _late_labels((control, *treatments)),
            _corrected_labels((control, *treatments)),
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
    """Bonferroni over treatments of always-valid tests that label rates are equal to the control's.

    Of answered requests: a failed one needs nobody to label it, and arms may well differ in their errors.
    """
    counts = {arm.key: arm.due_and_labelled for arm in (control, *treatments)}
    rates = ", ".join(f"{key} {labelled}/{due}" for key, (due, labelled) in counts.items())
    if any(due == 0 for due, _ in counts.values()):
        message = f"Label rates ({rates}) cannot be compared yet: an arm has no answer to be labelled."
        return HealthCheck(HealthCode.LABEL_RATE, True, None, BOUND, message)
    p_values = [label_rate_p_value(control, arm, design.tuning_n) for arm in treatments]
    p = min(1.0, min(p_values) * len(p_values))
    passed = p >= BOUND
    verb = "do not differ detectably" if passed else "differ"
    message = f"Label rates of answers ({rates}) {verb} between arms: always-valid p = {p:.3g}."
    return HealthCheck(HealthCode.LABEL_RATE, passed, p, BOUND, message)


def label_rate_p_value(control: ArmAggregates, treatment: ArmAggregates, tuning_n: float) -> float:
    """Always-valid two-sided p-value of equal label rates in two arms with answers to be labelled.

    Labels may miss for whole units, so a unit counts as one observation whatever its completions; the
    variance of each rate p is p(1-p)/(k+2) with p smoothed by one success and one failure (Agresti and Caffo
    2000), so that a rate of 0 or 1 is no certainty.
    """
    rates, variance, units = [], 0.0, 0
    for arm in (control, treatment):
        due, labelled = arm.due_and_labelled
        k, rate = min(arm.decoded_tokens.units, due), labelled / due
        smoothed = (rate * k + 1) / (k + 2)
        rates.append(rate)
        variance += smoothed * (1 - smoothed) / (k + 2)
        units += k
    return sequential.always_valid_p(rates[1] - rates[0], math.sqrt(variance), units, tuning_n, BOUND)


def _late_labels(arms: Sequence[ArmAggregates]) -> HealthCheck:
    counts = [(arm.key, arm.late_labels, max(arm.labelled_completions, arm.late_labels)) for arm in arms]
    return _share_of_labels(
        HealthCode.LATE_LABELS,
        counts,
        LATE_BOUND,
        "labels of {key} came after their request was counted without one",
        "Raise the label window to what labels take, so that looks wait for them.",
    )


def _corrected_labels(arms: Sequence[ArmAggregates]) -> HealthCheck:
    counts = [(arm.key, arm.corrected_labels, max(arm.labelled_completions, arm.corrected_labels)) for arm in arms]
    return _share_of_labels(
        HealthCode.CORRECTED_LABELS,
        counts,
        CORRECTED_BOUND,
        "labels of {key} say something else than when they were first counted",
        "Raise the label window to what labels take to be final.",
    )


def _share_of_labels(
    code: HealthCode, counts: Sequence[tuple[str, int, int]], bound: float, what: str, advice: str
) -> HealthCheck:
    """The worst arm's share; `counts` are the arm's key, its labels of the kind, and all its labels."""
    seen = [item for item in counts if item[2] > 0]
    if not seen:
        name = code.value.replace("_", " ").capitalize()
        return HealthCheck(code, True, None, bound, f"{name} cannot be judged yet: there is no label.")
    key, some, labels = max(seen, key=lambda item: item[1] / item[2])
    share = some / labels
    message = f"{some} of {labels} {what.format(key=key)} ({share:.2%}; at most {bound:.0%})."
    if share > bound:
        message = f"{message} {advice}"
    return HealthCheck(code, share <= bound, share, bound, message)


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
