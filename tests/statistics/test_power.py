"""Planning: what an experiment needs, and how long it takes."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from experiments.statistics import NotEstimable
from experiments.statistics.duration import Duration, Traffic, duration
from experiments.statistics.power import (
    EMQuestion,
    SampleSize,
    TokenQuestion,
    design_effect,
    detectable_margin,
    detectable_saving,
    joint_sample_size,
    paired_sample_size,
    power_at,
    sample_size,
    two_sided_mean_size,
)
from experiments.statistics.sequential_power import (
    joint_sequential_sample_size,
    sequential_paired_sample_size,
    sequential_power_at,
    sequential_sample_size,
    simulate_stopping,
)

EM = EMQuestion(0.72, 0.72, 0.02)
TOKENS = TokenQuestion(3100, 2600, 0.3, 0.1)


def size(found: object) -> SampleSize:
    assert isinstance(found, SampleSize)
    return found


def test_a_saving_of_300_of_3100_tokens_needs_929_units_an_arm() -> None:
    """FINDINGS: standard deviation 2,600, one-sided 5 %, 80 % power; 2 sd² (1.645 + .842)² / 300²."""
    assert size(sample_size(TokenQuestion(3100, 2600, 300 / 3100, 0.0, 2600))).treatment == 929


def test_pairs_with_6_6_percent_discordance_need_about_1020_prompts() -> None:
    assert size(paired_sample_size(0.066, 0.02)).unrounded == pytest.approx(1020, abs=1)


def test_the_power_at_the_sample_size_is_the_one_asked_for() -> None:
    for question in (EM, TOKENS):
        assert power_at(question, size(sample_size(question, power=0.9)).unrounded) == pytest.approx(0.9)


def test_unequal_arms_need_more_in_total() -> None:
    assert size(sample_size(EM, ratio=4)).total > size(sample_size(EM)).total


def test_clusters_need_their_design_effect_more() -> None:
    clustered = EMQuestion(0.72, 0.72, 0.02, design_effect(4, 0.1))
    assert size(sample_size(clustered)).unrounded == pytest.approx(1.3 * size(sample_size(EM)).unrounded)


def test_units_of_different_sizes_cost_more() -> None:
    assert design_effect(4, 0.1, 1.0) > design_effect(4, 0.1)


def test_both_questions_need_at_least_what_each_needs() -> None:
    tokens = TokenQuestion(3100, 2600, 0.113, 0.1)
    each = [size(sample_size(question)).unrounded for question in (EM, tokens)]
    both = size(joint_sample_size(EM, tokens)).unrounded
    assert both >= max(each)
    missed = sum(1 - power_at(question, both) for question in (EM, tokens))
    assert missed <= 0.2 + 1e-6


def test_the_detectable_margin_inverts_the_sample_size() -> None:
    assert detectable_margin(0.72, size(sample_size(EM)).unrounded) == pytest.approx(0.02)


@pytest.mark.parametrize("question", [EMQuestion(0.72, 0.69, 0.02), TokenQuestion(3100, 2600, 0.1, 0.1)])
def test_an_impossible_question_says_so(question: EMQuestion | TokenQuestion) -> None:
    found = sample_size(question)
    assert isinstance(found, NotEstimable)
    assert "no sample size shows it" in found.reason


def test_looking_all_the_time_needs_about_twice_a_fixed_sample_at_the_latest() -> None:
    """FINDINGS says about twice."""
    factor = size(sequential_sample_size(EM)).unrounded / size(sample_size(EM)).unrounded
    assert 1.7 < factor < 2.5


def test_the_best_tuning_is_near_the_sample_itself() -> None:
    n = size(sequential_sample_size(EM))
    here = sequential_power_at(EM, n.unrounded, n.total)
    assert here >= max(sequential_power_at(EM, n.unrounded, n.total * f) for f in (0.1, 10))


def test_a_sequential_experiment_stops_early_on_average() -> None:
    n = size(sequential_sample_size(EM))
    found = simulate_stopping(EM, n.treatment, n.total, seed=7, replications=2_000)
    assert found.power >= 0.8 - 3 * found.power_error
    assert found.mean_units < 0.65 * n.treatment


def test_the_joint_question_is_answered_by_the_slower_one() -> None:
    both = size(joint_sequential_sample_size(EM, TOKENS))
    assert both.unrounded == size(sequential_sample_size(EM, power=0.9)).unrounded


def test_the_duration_names_the_question_that_binds() -> None:
    found = duration(EM, TOKENS, Traffic(5_000, 0.5, 0.5, 0.5, label_rate=0.2))
    assert isinstance(found, Duration)
    assert found.binding == "em"
    assert found.days == math.ceil(found.em_days)
    assert "until EM is decided" in found.message


def test_more_labels_shorten_it() -> None:
    days = [duration(EM, TOKENS, Traffic(5_000, 1.0, 0.5, 0.5, label_rate=rate)).em_days for rate in (0.1, 1.0)]
    assert days[0] == pytest.approx(10 * days[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"margin": 3}, r"margin must be in \(0, 1\), got 3"),
        ({"p_control": 1.0}, r"p_control must be in \(0, 1\), got 1.0"),
        ({"design_effect": 0.5}, "design_effect must be >= 1, got 0.5"),
    ],
)
def test_a_bad_question_is_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EMQuestion(**({"p_control": 0.7, "p_treatment": 0.7, "margin": 0.02} | change))


def test_the_detectable_saving_inverts_the_sample_size() -> None:
    found = detectable_saving(TOKENS, 929)
    assert isinstance(found, float)
    again = size(sample_size(TokenQuestion(TOKENS.mean_control, TOKENS.sd_control, found, TOKENS.min_saving)))
    assert again.unrounded == pytest.approx(929, rel=1e-6)


def test_two_units_show_no_saving() -> None:
    found = detectable_saving(TokenQuestion(3100, 26_000, 0.5, 0.1), 2)
    assert isinstance(found, NotEstimable)
    assert "2 units show no saving" in found.reason


def test_pairs_looked_at_all_the_time_need_more_than_a_fixed_sample_and_fewer_than_two_arms() -> None:
    pairs = size(sequential_paired_sample_size(0.066, 0.02)).unrounded
    assert size(paired_sample_size(0.066, 0.02)).unrounded < pairs
    assert pairs < size(sequential_sample_size(EMQuestion(0.72, 0.72, 0.02))).unrounded


def test_sequential_pairs_are_one_sample_of_the_same_drift() -> None:
    """A pair's difference has variance psi - d², so two arms with that variance together need as many each."""
    arms = EMQuestion(0.5, 0.5, 0.02)
    found = sequential_sample_size(arms, tuning_n=2_000 * 2)
    assert size(sequential_paired_sample_size(0.5, 0.02, tuning_n=2_000)).unrounded == pytest.approx(
        size(found).unrounded, rel=1e-9
    )


def test_pairs_that_cannot_vary_are_refused() -> None:
    with pytest.raises(ValueError, match="discordance must be > difference² for pairs to vary, got 1, 1"):
        paired_sample_size(1, 0.02, 1)


def test_no_number_of_looked_at_pairs_shows_a_loss_beyond_the_margin() -> None:
    assert isinstance(sequential_paired_sample_size(0.1, 0.02, -0.03), NotEstimable)


@pytest.mark.parametrize("power", [0.01, 0.05])
@pytest.mark.parametrize(
    "size_of",
    [
        lambda power: sample_size(EM, power=power),
        lambda power: joint_sample_size(EM, TOKENS, power=power),
        lambda power: two_sided_mean_size(1.0, 0.5, power=power),
        lambda power: paired_sample_size(0.066, 0.02, power=power),
        lambda power: detectable_margin(0.72, 1_000, power=power),
        lambda power: detectable_saving(TOKENS, 1_000, power=power),
        lambda power: sequential_sample_size(EM, power=power),
        lambda power: sequential_paired_sample_size(0.066, 0.02, power=power),
        lambda power: joint_sequential_sample_size(EM, TOKENS, power=power),
        lambda power: duration(EM, TOKENS, Traffic(5_000, 0.5, 0.5, 0.5), power=power),
    ],
)
def test_a_power_that_any_test_has_is_refused(size_of: Callable[[float], object], power: float) -> None:
    with pytest.raises(ValueError, match=rf"power must be in \(alpha = 0.05, 1\), got {power}"):
        size_of(power)


def test_a_simulated_power_below_alpha_needs_no_fixed_sample() -> None:
    found = simulate_stopping(EM, 10, 5_000, seed=1, looks=2, replications=100)
    assert (found.power, found.fixed_units) == (0.0, 0.0)
