"""One treatment against the control."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.statistics import (
    ArmAggregates,
    ClusterAggregate,
    Comparison,
    Design,
    EMContrast,
    Interval,
    NotEstimable,
    Outcomes,
    TokenContrast,
    compare,
)
from experiments.statistics.comparison import compare_em, compare_tokens
from experiments.statistics.safe_proportions import SafeDifference
from tests.statistics.builders import arm, design, proportion, tokens

COUNTS = st.tuples(st.integers(2, 5_000), st.floats(0, 1))
MEANS = st.floats(50, 10_000)


def _em(comparison: Comparison) -> EMContrast:
    assert isinstance(comparison.em, EMContrast)
    return comparison.em


def _tokens(contrast: TokenContrast | NotEstimable) -> TokenContrast:
    assert isinstance(contrast, TokenContrast)
    return contrast


def _interval(value: Interval | NotEstimable) -> Interval:
    assert isinstance(value, Interval)
    return value


@given(COUNTS, COUNTS)
def test_em_interval_contains_the_difference_and_the_bounds_agree(
    control: tuple[int, float], treatment: tuple[int, float]
) -> None:
    pair = [proportion(round(n * share), n) for n, share in (control, treatment)]
    result = compare_em(pair[0], pair[1], design())
    assert result.difference.value in _interval(result.difference.interval)
    assert -1 <= result.lower_bound <= result.difference.value <= result.upper_bound <= 1
    assert 0 < result.p_non_inferiority <= 1


@given(COUNTS, COUNTS)
def test_em_bound_and_p_value_decide_alike(control: tuple[int, float], treatment: tuple[int, float]) -> None:
    pair = [proportion(round(n * share), n) for n, share in (control, treatment)]
    result = compare_em(pair[0], pair[1], design())
    near = abs(result.p_non_inferiority - 0.05) < 1e-9
    assert near or (result.p_non_inferiority <= 0.05) == (result.lower_bound > -0.05)


@given(st.integers(2, 5_000), MEANS, st.integers(2, 5_000), MEANS, st.floats(0.01, 0.9), st.floats(-1, 0.9))
def test_saving_p_value_and_relative_bound_decide_alike(
    n_c: int, mean_c: float, n_t: int, mean_t: float, cv: float, min_saving: float
) -> None:
    control, treatment = tokens(n_c, mean_c, mean_c * cv), tokens(n_t, mean_t, mean_t * cv)
    result = _tokens(compare_tokens(control, treatment, design(min_saving=min_saving), includes_probes=True))
    if isinstance(result.relative_upper_bound, float) and abs(result.p_saving - 0.05) > 1e-6:
        assert (result.p_saving <= 0.05) == (result.relative_upper_bound < -min_saving)


@given(st.integers(2, 2_000), MEANS, st.integers(2, 2_000), MEANS, st.floats(0.1, 10))
def test_tokens_are_equivariant_under_scaling(n_c: int, mean_c: float, n_t: int, mean_t: float, scale: float) -> None:
    plan = design()
    plain, scaled = (
        _tokens(
            compare_tokens(
                tokens(n_c, mean_c * by, mean_c * by * 0.4),
                tokens(n_t, mean_t * by, mean_t * by * 0.4),
                plan,
                includes_probes=True,
            )
        )
        for by in (1.0, scale)
    )
    assert scaled.difference.value == pytest.approx(plain.difference.value * scale, rel=1e-6, abs=1e-6)
    assert scaled.relative_change.value == pytest.approx(plain.relative_change.value, rel=1e-6, abs=1e-9)
    assert scaled.p_saving == pytest.approx(plain.p_saving, rel=1e-4)


@settings(max_examples=50)
@given(st.integers(30, 200), st.integers(2, 40), st.floats(0.1, 0.9))
def test_intervals_shrink_with_data(n: int, times: int, share: float) -> None:
    widths = []
    for size in (n, n * times):
        control = arm("full", size, round(size * share))
        treatment = arm("early", size, round(size * share), 700.0)
        result = compare(control, treatment, design())
        interval = _interval(_tokens(result.decoded_tokens).difference.interval)
        em = _interval(_em(result).difference.interval)
        widths.append((em.upper - em.lower, interval.upper - interval.lower))
    assert widths[1][0] <= widths[0][0]
    assert widths[1][1] < widths[0][1]


def test_tokens_without_probes_are_marked() -> None:
    result = compare(arm("full"), arm("early", mean=600.0), design())
    assert _tokens(result.decoded_tokens).includes_probes
    assert not _tokens(result.tokens_without_probes).includes_probes


def test_relative_change_is_treatment_over_control_minus_one() -> None:
    result = compare(arm("full", mean=1_000.0), arm("early", mean=600.0), design())
    change = _tokens(result.decoded_tokens).relative_change
    assert change.value == pytest.approx(-0.4)
    assert change.anytime_valid
    assert -0.45 < _interval(change.interval).lower < -0.4 < _interval(change.interval).upper < -0.35


def test_a_negative_minimum_saving_lets_a_treatment_cost_more() -> None:
    control, treatment = arm("full", mean=1_000.0), arm("early", mean=1_100.0)
    strict = compare(control, treatment, design(min_saving=0.0))
    lenient = compare(control, treatment, design(min_saving=-0.5))
    assert _tokens(strict.decoded_tokens).p_saving == 1.0
    assert _tokens(lenient.decoded_tokens).p_saving < 1e-6


def test_clustered_units_widen_the_em_interval() -> None:
    independent = compare_em(proportion(800, 1_000), proportion(800, 1_000), design())
    clustered = ClusterAggregate.from_arrays([10] * 100, [10] * 80 + [0] * 20)
    wide = compare_em(clustered, clustered, design())
    assert wide.difference.se > 2.5 * independent.difference.se


def test_p_ship_is_the_larger_of_the_two() -> None:
    result = compare(arm("full"), arm("early", mean=600.0), design())
    pair = (_em(result).p_non_inferiority, _tokens(result.decoded_tokens).p_saving)
    assert result.p_ship == max(pair)


def test_an_arm_without_labels_is_not_estimable() -> None:
    result = compare(arm("full"), arm("early", correct=None), design())
    assert result.em == NotEstimable("arm 'early' has no labelled completions")
    assert isinstance(result.decoded_tokens, TokenContrast)
    assert result.p_ship == 1.0


def test_an_arm_with_29_units_is_not_estimable() -> None:
    result = compare(arm("full"), arm("early", 29, 29), design())
    assert result.em == NotEstimable("arm 'early' has too few labelled units: 29, at least 30 are needed")
    assert result.decoded_tokens == NotEstimable("arm 'early' has too few units: 29, at least 30 are needed")


def test_an_arm_with_30_units_is_estimable() -> None:
    result = compare(arm("full"), arm("early", 30, 29), design())
    assert isinstance(result.em, EMContrast)
    assert isinstance(result.decoded_tokens, TokenContrast)


def test_the_exact_test_needs_no_smallest_sample() -> None:
    state = SafeDifference.for_interval(0.05).advance([0, 1] * 10, [1, 0] * 10)
    result = compare(arm("full", 10, 10), arm("early", 10, 0), design(), state)
    assert _em(result).p_harm < 0.05
    assert isinstance(result.decoded_tokens, NotEstimable)


def test_a_tuning_sample_too_small_to_be_valid_is_raised() -> None:
    assert (design(tuning_n=2).tuning_n, design(tuning_n=501).tuning_n) == (500, 501)


def test_a_few_right_answers_beside_a_perfect_control_are_not_enough_to_ship() -> None:
    """At EM .98 the first 220 answers are all right 1.2 % of the time; with one wrong the next dozen were enough."""
    result = compare_em(proportion(220, 220), proportion(220, 220), design(margin=0.02, tuning_n=1_000.0))
    assert result.p_non_inferiority > 0.05


def test_empty_labels_are_not_estimable() -> None:
    result = compare(arm("full"), arm("early", correct=0, labelled=0), design())
    assert result.em == NotEstimable("arm 'early' has too few labelled units: 0, at least 30 are needed")


def test_constant_tokens_are_not_estimable() -> None:
    constant = ClusterAggregate.from_values([100] * 50)
    result = compare_tokens(constant, constant, design(), includes_probes=True)
    assert isinstance(result, NotEstimable)


def test_all_answers_right_keeps_an_uncertainty() -> None:
    result = compare_em(proportion(10, 10), proportion(10, 10), design())
    interval = _interval(result.difference.interval)
    assert interval.lower < -0.2
    assert interval.upper > 0.2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"margin": 3}, r"margin must be in \(0, 1\), got 3"),
        ({"margin": 0.0}, r"margin must be in \(0, 1\), got 0.0"),
        ({"min_saving": 20}, r"min_saving must be in \[-1, 1\), got 20"),
        ({"alpha": 5}, r"alpha must be in \(0, 0.5\), got 5"),
        ({"level": 95}, r"level must be in \(0, 1\), got 95"),
        ({"false_revert_alpha": 0.0}, r"false_revert_alpha must be in \(0, 0.5\), got 0.0"),
        ({"tuning_n": 0}, r"tuning_n must be > 0, got 0"),
        ({"maximum_units": 0}, r"maximum_units must be > 0, got 0"),
        ({"control": "none"}, r"control must be one of \['early', 'full'\], got 'none'"),
    ],
)
def test_bad_designs_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        design(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exposures": -1}, "exposures must be >= 0, got -1"),
        ({"exposures": 9}, "full: decoded_tokens.units must be <= exposures = 9, got 10"),
        ({"labels_due": 9}, "full: labelled_completions must be <= labels_due = 9, got 10"),
        ({"completions": 9, "labels_due": 10}, "full: labels_due must be <= completions = 9, got 10"),
        ({"labelled_completions": 9}, "full: em.sum_n must be labelled_completions = 9, got 10"),
        ({"enforcement_failures": 11}, "full: enforcement_failures must be <= completions = 10, got 11"),
        ({"outcomes": Outcomes(answered=9)}, "full: outcomes.total must be completions = 10, got 9"),
        ({"decoded_tokens": tokens(9, 500.0)}, "full: decoded_tokens.sum_n must be completions = 10, got 9"),
        ({"tokens_without_probes": tokens(10, 2e3)}, "full: tokens_without_probes.sum_s must be <= decoded"),
        ({"em": tokens(10, 500.0)}, r"full: em.sum_s must be in \[0, sum_n = 10\]"),
    ],
)
def test_contradicting_counts_of_an_arm_are_refused(change: dict[str, Any], message: str) -> None:
    good = arm("full", 10, 9)
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(good, **change)


def test_negative_outcomes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"outcomes.error must be >= 0, got -2"):
        Outcomes(answered=1, error=-2)


def test_a_design_keeps_its_own_copy_of_the_weights() -> None:
    shares = {"full": 0.5, "early": 0.5}
    plan = Design(control="full", weights=shares, margin=0.05, min_saving=0.2)
    shares["late"] = 0.1
    assert set(plan.weights) == {"full", "early"}


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 5)), min_size=30, max_size=40), st.data())
def test_any_real_arm_is_compared_without_nan(rows: list[tuple[int, int]], data: st.DataObject) -> None:
    n = np.array([size for size, _ in rows])
    right = np.minimum(n, [correct for _, correct in rows])
    spent = np.array([data.draw(st.integers(0, 9_000)) for _ in rows]) * n
    total = int(n.sum())
    one = ArmAggregates(
        key="full",
        exposures=len(rows),
        em=ClusterAggregate.from_arrays(n, right),
        decoded_tokens=ClusterAggregate.from_arrays(n, spent),
        tokens_without_probes=ClusterAggregate.from_arrays(n, spent // 2),
        completions=total,
        labelled_completions=total,
        outcomes=Outcomes(answered=total),
    )
    result = compare(one, dataclasses.replace(one, key="early"), design())
    assert isinstance(result.em, EMContrast)
    assert 0 < result.p_ship <= 1
