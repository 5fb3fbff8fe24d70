"""The verdict: one rule, one test."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from experiments.statistics import (
    Decision,
    LookInputs,
    ReasonCode,
    Snapshot,
    TreatmentVerdict,
    VerdictInputs,
    analyse,
)
from experiments.statistics.arms import ArmAggregates
from experiments.statistics.evidence import Evidence
from experiments.statistics.safe_proportions import SafeDifference
from tests.statistics.builders import arm, design, look

FULL = arm("full", 5_000, 4_500)
GOOD = arm("early", 5_000, 4_480, 600.0)
HARMFUL = arm("early", 5_000, 3_900, 300.0)


def _look(*arms: ArmAggregates, **changes: Any) -> Snapshot:
    return analyse(look(*arms, **changes))


def _of(snapshot: Snapshot, key: str = "early") -> TreatmentVerdict:
    return next(item for item in snapshot.verdict.treatments if item.treatment == key)


def _codes(item: TreatmentVerdict) -> set[ReasonCode]:
    return {reason.code for reason in item.reasons}


def test_ships_when_both_nulls_are_rejected() -> None:
    snapshot = _look(FULL, GOOD)
    assert (snapshot.verdict.decision, snapshot.verdict.winner) == (Decision.SHIP, "early")
    assert _codes(_of(snapshot)) == {ReasonCode.EM_WITHIN_MARGIN, ReasonCode.SAVING_SHOWN}


def test_each_null_is_tested_at_alpha_without_a_split() -> None:
    """Both p-values between alpha / 2 and alpha ship."""
    snapshot = _look(arm("full", 700, 630), arm("early", 700, 630, 780.0), margin=0.0466, min_saving=0.2058)
    comparison = snapshot.comparisons[0]
    p_em = comparison.em.p_non_inferiority  # type: ignore[union-attr]
    p_saving = comparison.decoded_tokens.p_saving  # type: ignore[union-attr]
    assert 0.025 < p_em < 0.05
    assert 0.025 < p_saving < 0.05
    assert snapshot.verdict.decision is Decision.SHIP


def test_does_not_ship_without_the_saving() -> None:
    snapshot = _look(FULL, arm("early", 5_000, 4_500, 850.0))
    assert _of(snapshot).decision is Decision.KEEP_RUNNING
    assert _codes(_of(snapshot)) == {ReasonCode.EM_WITHIN_MARGIN, ReasonCode.SAVING_NOT_SHOWN}


def test_does_not_ship_without_the_em() -> None:
    snapshot = _look(FULL, arm("early", 5_000, 4_300, 600.0))
    assert _of(snapshot).decision is Decision.KEEP_RUNNING
    assert _codes(_of(snapshot)) == {ReasonCode.EM_NOT_SHOWN, ReasonCode.SAVING_SHOWN}


def test_reverts_when_the_loss_exceeds_the_margin() -> None:
    snapshot = _look(FULL, HARMFUL)
    assert snapshot.verdict.decision is Decision.REVERT
    assert _of(snapshot).reasons[0].code is ReasonCode.EM_BEYOND_MARGIN


def test_reverts_without_a_minimum_sample() -> None:
    snapshot = _look(arm("full", 40, 40), arm("early", 40, 4, 300.0), tuning_n=100.0)
    assert _of(snapshot).decision is Decision.REVERT


def test_a_loss_within_the_margin_does_not_revert() -> None:
    snapshot = _look(FULL, arm("early", 5_000, 4_300, 600.0))
    assert _of(snapshot).decision is not Decision.REVERT


def test_revert_uses_the_declared_false_revert_alpha() -> None:
    arms = (FULL, arm("early", 5_000, 4_145, 600.0))
    assert _of(_look(*arms, false_revert_alpha=0.2)).decision is Decision.REVERT
    assert _of(_look(*arms, false_revert_alpha=0.001)).decision is Decision.KEEP_RUNNING


def test_ill_health_blocks_ship() -> None:
    snapshot = _look(FULL, arm("early", 5_000, 4_480, 600.0, enforcement_failures=50))
    assert _of(snapshot).decision is Decision.KEEP_RUNNING
    assert ReasonCode.HEALTH_BLOCKS_SHIP in _codes(_of(snapshot))


def test_ill_health_never_blocks_revert() -> None:
    snapshot = _look(FULL, arm("early", 5_000, 3_900, 300.0, enforcement_failures=50))
    assert not snapshot.health.passed
    assert _of(snapshot).decision is Decision.REVERT


def test_sample_ratio_mismatch_blocks_ship() -> None:
    snapshot = _look(arm("full", 6_000, 5_400), arm("early", 4_000, 3_600, 600.0))
    assert _of(snapshot).decision is Decision.KEEP_RUNNING
    assert _of(snapshot).reasons[0].name == "sample_ratio"


def test_label_missingness_blocks_ship() -> None:
    snapshot = _look(FULL, arm("early", 5_000, 3_600, 600.0, labelled=4_000))
    assert _of(snapshot).decision is Decision.KEEP_RUNNING
    assert _of(snapshot).reasons[0].name == "label_rate"


def test_late_labels_block_ship() -> None:
    snapshot = _look(FULL, arm("early", 5_000, 4_480, 600.0, late_labels=150))
    assert _of(snapshot).decision is Decision.KEEP_RUNNING
    assert _of(snapshot).reasons[0].name == "late_labels"


def test_late_labels_never_block_revert() -> None:
    assert _of(_look(FULL, arm("early", 5_000, 3_900, 300.0, late_labels=150))).decision is Decision.REVERT


def test_an_estimate_at_the_margin_blocks_ship_whatever_the_exact_test_says() -> None:
    """The control's labels went into the exact test as wrong ones and were corrected since."""
    arms = np.arange(4_000) % 2
    test = SafeDifference.for_interval(0.05).advance(arms, arms == 1)
    good, lower = arm("early", 5_000, 4_600, 600.0), arm("early", 5_000, 4_250, 600.0)
    evidence = {"early": Evidence(em_test=test)}
    shipped, blocked = (
        analyse(LookInputs(design("early"), (FULL, treated), evidence=evidence)) for treated in (good, lower)
    )
    assert _of(shipped).decision is Decision.SHIP
    assert _of(blocked).decision is Decision.KEEP_RUNNING
    reason = _of(blocked).reasons[0]
    assert (reason.code, reason.value) == (ReasonCode.ESTIMATE_BLOCKS_SHIP, pytest.approx(-0.05))


def test_inconclusive_at_the_declared_maximum() -> None:
    snapshot = _look(FULL, arm("early", 5_000, 4_300, 600.0), maximum_units=10_000)
    assert snapshot.verdict.decision is Decision.INCONCLUSIVE
    assert _of(snapshot).reasons[0].code is ReasonCode.MAXIMUM_REACHED


def test_keeps_running_before_the_declared_maximum() -> None:
    snapshot = _look(FULL, arm("early", 5_000, 4_300, 600.0), maximum_units=10_001)
    assert snapshot.verdict.decision is Decision.KEEP_RUNNING


def test_inconclusive_when_the_declared_duration_has_passed() -> None:
    snapshot = _look(FULL, arm("early", 5_000, 4_300, 600.0), duration_reached=True)
    assert snapshot.verdict.decision is Decision.INCONCLUSIVE


def test_ships_at_the_declared_maximum() -> None:
    assert _look(FULL, GOOD, maximum_units=10_000).verdict.decision is Decision.SHIP


def test_reverts_at_the_declared_maximum() -> None:
    assert _look(FULL, HARMFUL, maximum_units=10_000).verdict.decision is Decision.REVERT


def test_blocked_ship_at_the_declared_maximum_is_inconclusive() -> None:
    sick = arm("early", 5_000, 4_480, 600.0, enforcement_failures=50)
    assert _look(FULL, sick, maximum_units=10_000).verdict.decision is Decision.INCONCLUSIVE


def test_holm_adjusts_over_treatments() -> None:
    """A p-value that ships alone doesn't beside four treatments without effect."""
    arms = (arm("full", 700, 630), arm("early", 700, 630, 600.0))
    others = [arm(f"other{i}", 700, 610, 990.0) for i in range(4)]
    alone, among = _look(*arms, margin=0.048), _look(*arms, *others, margin=0.048)
    assert _of(alone).decision is Decision.SHIP
    assert _of(among).decision is Decision.KEEP_RUNNING
    assert _of(among).reasons[0].code is ReasonCode.MULTIPLICITY


def test_a_reverted_arm_stays_in_the_holm_family() -> None:
    arms = (arm("full", 700, 630), arm("early", 700, 630, 600.0))
    snapshot = _look(*arms, margin=0.048, reverted=("harsh",))
    assert _of(snapshot).p_ship_adjusted == pytest.approx(2 * _of(snapshot).p_ship)
    assert _of(snapshot).decision is Decision.KEEP_RUNNING
    assert _of(snapshot, "harsh").reasons[0].code is ReasonCode.REVERTED_EARLIER


def test_one_treatment_ships_while_another_is_reverted() -> None:
    snapshot = _look(FULL, GOOD, arm("harsh", 5_000, 3_900, 300.0))
    assert (_of(snapshot).decision, _of(snapshot, "harsh").decision) == (Decision.SHIP, Decision.REVERT)
    assert snapshot.verdict.decision is Decision.SHIP


def test_the_winner_saves_most() -> None:
    snapshot = _look(FULL, GOOD, arm("earlier", 5_000, 4_480, 500.0))
    assert snapshot.verdict.winner == "earlier"


def test_revert_overall_needs_all_treatments_reverted() -> None:
    snapshot = _look(FULL, HARMFUL, arm("other", 5_000, 4_300, 600.0))
    assert snapshot.verdict.decision is Decision.KEEP_RUNNING


def test_an_arm_without_labels_keeps_running_and_says_why() -> None:
    snapshot = _look(arm("full", 5_000, None), arm("early", 5_000, None, 600.0))
    assert _of(snapshot).decision is Decision.KEEP_RUNNING
    assert ReasonCode.NOT_ESTIMABLE in _codes(_of(snapshot))
    assert "no labelled completions" in _of(snapshot).reasons[0].message


def test_reasons_show_points_and_percent() -> None:
    em, saving = _of(_look(FULL, GOOD)).reasons
    assert em.message.startswith("EM difference -0.4 points, lower bound")
    assert em.message.endswith("a loss of 5.0 points (the margin) is excluded.")
    assert saving.message.startswith("decoded_tokens change by -40.0%")
    assert (em.bound, saving.bound) == (-0.05, -0.2)


def test_comparisons_must_cover_the_design() -> None:
    snapshot = _look(FULL, GOOD)
    with pytest.raises(ValueError, match=r"comparisons must cover \['early', 'late'\], got \['early'\]"):
        VerdictInputs(design("early", "late"), snapshot.comparisons, snapshot.health, 10)


def test_a_treatment_is_reverted_once() -> None:
    with pytest.raises(ValueError, match="reverted must name each treatment once"):
        _look(FULL, GOOD, reverted=("harsh", "harsh"))


def test_a_running_variant_cannot_be_reverted_already() -> None:
    with pytest.raises(ValueError, match=r"reverted must not name variants .* got \['early'\]"):
        _look(FULL, GOOD, reverted=("early",))
