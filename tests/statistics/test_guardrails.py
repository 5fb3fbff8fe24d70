"""Guardrails, segments and sketches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from experiments.statistics import ClusterAggregate, Decision, Interval, NotEstimable, analyse
from experiments.statistics.guardrails import (
    Guardrail,
    GuardrailAction,
    GuardrailMetric,
    assess,
    from_json,
    judge,
    slow_after,
    to_json,
)
from experiments.statistics.quantiles import QuantileEstimate, QuantileSketch, quantile_difference, quantile_estimate
from experiments.statistics.safe_proportions import SafeDifference
from experiments.statistics.segments import Interaction, contrasts, harm, interaction
from tests.statistics.builders import arm, design, look, proportion

EMPTY = Guardrail(GuardrailMetric.EMPTY, 0.02)
SLOW = Guardrail(GuardrailMetric.SLOW, 0.01, GuardrailAction.ALARM, 30.0)


def test_a_clear_increase_is_a_breach() -> None:
    found = judge(EMPTY, "early", proportion(200, 1000), proportion(5, 1000), 0.01, 1_000)
    assert found.breached
    assert found.excess == pytest.approx(0.195)
    assert "beyond the bound of 2.0 points" in found.message


def test_an_increase_within_the_bound_is_none() -> None:
    assert not judge(EMPTY, "early", proportion(15, 1000), proportion(5, 1000), 0.01, 1_000).breached


def test_disagreement_is_held_against_its_own_bound() -> None:
    rail = Guardrail(GuardrailMetric.DISAGREEMENT, 0.1)
    found = judge(rail, "early", proportion(400, 1000), None, 0.01, 1_000)
    assert (found.breached, found.control_value) == (True, None)


def test_an_arm_without_requests_is_not_judged() -> None:
    found = judge(EMPTY, "early", ClusterAggregate.empty(), proportion(5, 1000), 0.01, 1_000)
    assert isinstance(found.value, NotEstimable)
    assert not found.breached


def test_the_exact_test_decides_where_there_is_one() -> None:
    arms = np.tile([0, 1], 500)
    process = SafeDifference.start((0.02,)).advance(arms, arms)
    found = judge(EMPTY, "early", proportion(500, 500), proportion(0, 500), 0.01, 1_000, process)
    assert (found.method, found.breached) == ("exact_e_process", True)


def test_slowness_is_judged_once_over_all_arms() -> None:
    sides = {GuardrailMetric.SLOW: proportion(100, 500)}
    found = assess((SLOW,), sides, {"a": sides, "b": sides}, 0.01, 1_000, {})
    assert len(found) == 1
    assert (found[0].treatment, found[0].observations, found[0].breached) == (None, 1500, True)


def test_false_revert_alpha_is_split_over_everything_that_can_revert() -> None:
    plan = design(guardrails=(EMPTY, SLOW), segments=("batch", "realtime"), false_revert_alpha=0.04)
    assert plan.harm_alpha == pytest.approx(0.01)


def watched(share: int) -> dict[str, Any]:
    return {
        "watched": {GuardrailMetric.EMPTY: proportion(share, 1_000), GuardrailMetric.SLOW: proportion(share, 1_000)}
    }


def test_a_breach_reverts_whatever_else_the_look_says() -> None:
    inputs = look(arm("full", **watched(5)), arm("early", mean=500.0, **watched(300)), guardrails=(EMPTY,))
    verdict = analyse(inputs).verdict
    assert verdict.decision is Decision.REVERT
    assert verdict.treatments[0].reasons[0].name == "empty"


def test_an_alarm_blocks_a_ship_and_reverts_nothing() -> None:
    sides = {"watched": {GuardrailMetric.SLOW: proportion(1_200, 4_000)}}
    arms = arm("full", 4_000, 3_600, **sides), arm("early", 4_000, 3_600, mean=500.0, **sides)
    assert analyse(look(*arms)).verdict.decision is Decision.SHIP
    blocked = analyse(look(*arms, guardrails=(SLOW,))).verdict
    assert blocked.decision is Decision.KEEP_RUNNING
    assert blocked.treatments[0].reasons[0].code.value == "alarm_blocks_ship"


def test_the_stored_form_is_read_back() -> None:
    assert from_json(to_json((EMPTY, SLOW))) == (EMPTY, SLOW)
    assert slow_after(to_json((EMPTY, SLOW))) == 30.0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"metric": "empty"}, "guardrails must be a list"),
        ([{"metric": "boredom", "bound": 0.1}], "guardrails.metric must be one of empty"),
        ([{"metric": "empty", "bound": 3}], r"guardrails.empty.bound must be in \(0, 1\), got 3"),
        ([{"metric": "empty"}], "guardrails.empty.bound is missing"),
        ([{"metric": "slow"}], "guardrails.slow.seconds goes with slow"),
        ([{"metric": "empty", "bound": 0.1, "seconds": 3}], "goes with slow, and only with it"),
        ([{"metric": "slow", "seconds": 3, "action": "revert"}], "guardrails.slow.action must be alarm"),
        ([{"metric": "empty", "bound": 0.1}] * 2, "must name each metric once"),
        ([{"metric": "empty", "bound": 0.1, "action": "pray"}], "must be revert or alarm, got 'pray'"),
        (["empty"], "a guardrail must have metric, bound"),
    ],
)
def test_a_bad_declaration_is_refused(data: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_json(data)


def test_harm_in_a_declared_segment_is_found_though_the_whole_looks_well() -> None:
    control = {"batch": proportion(900, 1_000), "rest": proportion(900, 1_000)}
    treated = {"batch": proportion(500, 1_000), "rest": proportion(990, 1_000)}
    found = harm("early", control, treated, design(segments=("batch",)))
    assert [item.harmed for item in found] == [True]


def test_a_declared_segment_without_traffic_harms_nobody() -> None:
    found = harm("early", {}, {}, design(segments=("batch",)))
    assert (found[0].harmed, found[0].upper_bound) == (False, None)


def test_29_units_of_a_segment_show_no_harm() -> None:
    few, many = {"batch": proportion(0, 29)}, {"batch": proportion(1_000, 1_000)}
    (found,) = harm("early", many, few, design(segments=("batch",)))
    assert (found.harmed, found.upper_bound) == (False, None)
    assert "the treatment has fewer than 30 labelled units there" in found.message


def test_exploratory_segments_are_adjusted_together() -> None:
    control = {name: proportion(900, 1_000) for name in "abc"}
    found = contrasts("early", control, control | {"a": proportion(600, 1_000)}, design())
    assert [item.segment for item in found] == ["a", "b", "c"]
    assert found[0].p_adjusted >= found[0].p_value
    assert found[0].p_adjusted < 0.001


def test_an_interaction_is_seen_where_effects_differ_and_not_where_they_agree() -> None:
    control = {name: proportion(800, 1_000) for name in "ab"}
    equal = interaction("early", control, control)
    different = interaction("early", control, {"a": proportion(800, 1_000), "b": proportion(600, 1_000)})
    assert isinstance(equal, Interaction)
    assert isinstance(different, Interaction)
    assert equal.p_value == pytest.approx(1.0)
    assert different.p_value < 1e-6


def test_one_segment_has_no_interaction() -> None:
    sides = {"a": proportion(8, 10)}
    assert isinstance(interaction("early", sides, sides), NotEstimable)


def test_a_sketch_is_close_in_rank_and_merges() -> None:
    rng = np.random.default_rng(1)
    parts = [rng.lognormal(7, 1, 20_000) for _ in range(3)]
    merged = QuantileSketch.empty()
    for part in parts:
        merged = merged.merge(QuantileSketch.empty().update(part))
    whole = np.sort(np.concatenate(parts))
    assert merged.n == whole.size
    for q in (0.5, 0.9, 0.99):
        rank = np.searchsorted(whole, merged.quantile(q)) / whole.size
        assert abs(rank - q) <= merged.rank_error


def test_a_small_sketch_is_exact() -> None:
    sketch = QuantileSketch.empty().update(np.arange(1, 102))
    assert (sketch.quantile(0.5), sketch.rank_error) == (51.0, 0.0)


def test_a_quantile_interval_holds_the_true_quantile_as_often_as_it_says() -> None:
    runs, covered = 200, 0
    for seed in range(runs):
        found = quantile_estimate(
            QuantileSketch.empty().update(np.random.default_rng(seed).lognormal(7, 1.5, 400)), 0.9, 0.95
        )
        assert isinstance(found, QuantileEstimate)
        assert isinstance(found.interval, Interval)
        covered += np.exp(7 + 1.5 * 1.2815515655446004) in found.interval
    assert covered / runs >= 0.9


def test_too_few_values_bound_no_tail() -> None:
    found = quantile_estimate(QuantileSketch.empty().update([1.0, 2.0, 3.0]), 0.99, 0.95)
    assert isinstance(found, QuantileEstimate)
    assert isinstance(found.interval, NotEstimable)


def test_nan_does_not_enter_a_sketch() -> None:
    with pytest.raises(ValueError, match="values must be finite"):
        QuantileSketch.empty().update([1.0, float("nan")])


def _p90(seed: int, factor: float, n: int = 400) -> QuantileEstimate:
    values = factor * np.random.default_rng(seed).lognormal(7, 1, n)
    found = quantile_estimate(QuantileSketch.empty().update(values), 0.9, 0.95)
    assert isinstance(found, QuantileEstimate)
    return found


def test_a_difference_of_quantiles_is_covered_as_often_as_its_interval_says() -> None:
    true, runs, covered = -0.3 * np.exp(7 + 1.2815515655446004), 200, 0
    for seed in range(runs):
        value, interval = quantile_difference(_p90(2 * seed, 1.0), _p90(2 * seed + 1, 0.7))
        assert isinstance(interval, Interval)
        assert value in interval
        covered += true in interval
    assert covered / runs >= 0.9


def test_different_quantiles_have_no_difference() -> None:
    median = quantile_estimate(QuantileSketch.empty().update(np.arange(400.0)), 0.5, 0.95)
    assert isinstance(median, QuantileEstimate)
    with pytest.raises(ValueError, match=r"treatment.q must be control.q = 0.5, got 0.9"):
        quantile_difference(median, _p90(1, 1.0))
