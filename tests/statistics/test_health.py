"""Health: what blocks a ship."""

from __future__ import annotations

import pytest

from experiments.statistics import HealthCheck, HealthCode, SequentialSRM
from experiments.statistics.arms import ArmAggregates
from experiments.statistics.health import assess
from tests.statistics.builders import arm, design


def _check(code: HealthCode, control: ArmAggregates, *treatments: ArmAggregates) -> HealthCheck:
    plan = design(*(item.key for item in treatments))
    counts = {item.key: item.exposures for item in (control, *treatments)}
    health = assess(SequentialSRM.start(plan.weights).advance(counts), control, treatments, plan)
    return next(check for check in health.checks if check.code is code)


def test_equal_arms_are_healthy() -> None:
    for code in HealthCode:
        assert _check(code, arm("full"), arm("early")).passed


def test_a_sample_ratio_mismatch_fails() -> None:
    check = _check(HealthCode.SAMPLE_RATIO, arm("full", 6_000), arm("early", 4_000))
    assert not check.passed
    assert check.value is not None
    assert check.value < check.bound == 0.001


def test_labels_that_miss_in_one_arm_fail() -> None:
    assert not _check(HealthCode.LABEL_RATE, arm("full"), arm("early", labelled=700, correct=650)).passed


def test_labels_that_miss_alike_pass() -> None:
    pair = (arm("full", labelled=700, correct=650), arm("early", labelled=690, correct=650))
    assert _check(HealthCode.LABEL_RATE, *pair).passed


def test_label_rates_of_arms_without_completions_cannot_be_compared() -> None:
    check = _check(HealthCode.LABEL_RATE, arm("full"), arm("early", 0, None))
    assert check.passed
    assert check.value is None


def test_label_rates_leave_failed_requests_out() -> None:
    """Of 1,000 audited requests 200 fail in one arm; what was answered is labelled alike."""
    failing = arm("early", labelled=440, correct=240, labels_due=1_000, answered_due=800, answered_labelled=240)
    control = arm("full", labelled=300, correct=280)
    check = _check(HealthCode.LABEL_RATE, control, failing)
    assert check.passed
    assert "full 300/1000, early 240/800" in check.message


@pytest.mark.parametrize(
    ("code", "field", "most"),
    [(HealthCode.LATE_LABELS, "late_labels", 20), (HealthCode.CORRECTED_LABELS, "corrected_labels", 10)],
)
def test_a_small_share_of_labels_may_have_moved(code: HealthCode, field: str, most: int) -> None:
    assert _check(code, arm("full"), arm("early", **{field: most})).passed


@pytest.mark.parametrize(
    ("code", "field", "too_many"),
    [(HealthCode.LATE_LABELS, "late_labels", 21), (HealthCode.CORRECTED_LABELS, "corrected_labels", 11)],
)
def test_labels_of_one_arm_that_moved_too_often_fail(code: HealthCode, field: str, too_many: int) -> None:
    check = _check(code, arm("full", **{field: too_many}), arm("early"))
    assert not check.passed
    assert check.value == too_many / 1_000
    assert "Raise the label window" in check.message


def test_policies_that_were_not_in_effect_fail() -> None:
    check = _check(HealthCode.ENFORCEMENT, arm("full"), arm("early", enforcement_failures=2))
    assert not check.passed
    assert check.value == 0.002
    assert "2 of 1000 completions of early" in check.message


def test_one_enforcement_failure_in_a_thousand_passes() -> None:
    assert _check(HealthCode.ENFORCEMENT, arm("full"), arm("early", enforcement_failures=1)).passed


def test_an_experiment_without_traffic_is_healthy() -> None:
    for code in HealthCode:
        assert _check(code, arm("full", 0, None), arm("early", 0, None)).passed
