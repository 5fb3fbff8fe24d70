"""Per-arm intervals and the smoothed variance."""

from __future__ import annotations

import math

import numpy as np
import pytest

from experiments.statistics import ClusterAggregate, Estimate, Interval, NotEstimable
from experiments.statistics.intervals import mean_sequence
from experiments.statistics.proportions import effective_sample_size, smoothed_variance, wilson_interval
from experiments.statistics.sequential import confidence_sequence
from tests.statistics.builders import proportion


def _interval(result: object) -> Interval:
    interval = result.interval  # type: ignore[attr-defined]
    assert isinstance(interval, Interval)
    return interval


def test_wilson_agrees_with_newcombe_1998() -> None:
    """Newcombe (Statistics in Medicine 17:857, 1998), table I, method 3: 81 of 263 gives .2553 to .3662."""
    interval = _interval(wilson_interval(proportion(81, 263), 0.95))
    assert (interval.lower, interval.upper) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_wilson_with_no_success_agrees_with_newcombe_1998() -> None:
    """Same table: 0 of 20 gives 0 to .1611."""
    interval = _interval(wilson_interval(proportion(0, 20), 0.95))
    assert (interval.lower, interval.upper) == pytest.approx((0.0, 0.1611), abs=5e-5)


def test_wilson_of_clusters_is_wider_than_of_independent_answers() -> None:
    clustered = ClusterAggregate.from_arrays([10] * 20, [10] * 16 + [0] * 4)
    wide, narrow = (_interval(wilson_interval(item, 0.95)) for item in (clustered, proportion(160, 200)))
    assert wide.upper - wide.lower > 2 * (narrow.upper - narrow.lower)


def test_perfectly_correlated_answers_count_once_per_unit() -> None:
    clustered = ClusterAggregate.from_arrays([10] * 20, [10] * 16 + [0] * 4)
    assert effective_sample_size(clustered) == pytest.approx(19)  # 20 times the (k - 1)/k of the variance


def test_clusters_that_are_all_right_count_once_per_unit() -> None:
    assert effective_sample_size(ClusterAggregate.from_arrays([10] * 7, [10] * 7)) == 7


def test_wilson_without_labels_is_not_estimable() -> None:
    assert isinstance(wilson_interval(ClusterAggregate.empty(), 0.95), NotEstimable)


def test_wilson_refuses_more_correct_answers_than_answers() -> None:
    with pytest.raises(ValueError, match=r"aggregate.sum_s must be in \[0, sum_n = 4\], got 6"):
        wilson_interval(ClusterAggregate.from_arrays([2, 2], [3, 3]), 0.95)


def test_smoothed_variance_follows_agresti_and_coull() -> None:
    """p = (x + 4)/(n + 8); the variance over n + 7 instead of n + 8, as the k/(k - 1) factor has it."""
    p = 94 / 108
    assert smoothed_variance(proportion(90, 100)) == pytest.approx(p * (1 - p) / 107, rel=1e-12)


def test_smoothed_variance_takes_heavy_users_for_what_they_are() -> None:
    """The same answers in as many units, half of them by one unit: it alone tells little."""
    even = ClusterAggregate.from_arrays([10] * 20, [10] * 20)
    heavy = ClusterAggregate.from_arrays([5] * 19 + [105], [5] * 19 + [105])
    assert smoothed_variance(heavy) > 4 * smoothed_variance(even)


def test_smoothed_variance_does_not_vanish_when_all_answers_are_right() -> None:
    assert smoothed_variance(proportion(50, 50)) > 0


def test_smoothed_variance_takes_few_large_units_for_few() -> None:
    """Three units of fifty right answers are worth three answers, not 150."""
    large = smoothed_variance(ClusterAggregate.from_arrays([50] * 3, [50] * 3))
    assert large == pytest.approx(smoothed_variance(proportion(3, 3)), rel=1e-12)


def test_mean_sequence_is_the_sequence_of_the_log_mean() -> None:
    values = np.random.default_rng(8).lognormal(8, 1, 60)
    interval = _interval(mean_sequence(ClusterAggregate.from_values(values), 0.9, 500))
    relative = values.std(ddof=1) / math.sqrt(60) / values.mean()
    logs = confidence_sequence(math.log(values.mean()), relative, 60, 500, 0.1)
    assert (interval.lower, interval.upper) == pytest.approx((math.exp(logs.lower), math.exp(logs.upper)), rel=1e-9)


def test_mean_sequence_says_that_it_holds_at_every_look() -> None:
    found = mean_sequence(ClusterAggregate.from_values([5, 6, 7]), 0.9, 500)
    assert isinstance(found, Estimate)
    assert found.anytime_valid


def test_mean_of_29_units_has_no_interval_yet() -> None:
    found = mean_sequence(ClusterAggregate.from_values(range(29)), 0.95, 500)
    assert isinstance(found, Estimate)
    assert found.value == 14
    assert found.interval == NotEstimable("an interval of a mean needs at least 30 units, got 29")


def test_mean_of_equal_values_has_an_interval_of_length_0() -> None:
    interval = _interval(mean_sequence(ClusterAggregate.from_values([0] * 30), 0.95, 500))
    assert (interval.lower, interval.upper) == (0, 0)


def test_mean_that_nothing_bounds_says_so() -> None:
    found = mean_sequence(ClusterAggregate.from_values([0, 1_000]), 0.95, 50_000)
    assert isinstance(found, Estimate)
    assert isinstance(found.interval, NotEstimable)


def test_mean_of_units_without_completions_says_so() -> None:
    assert mean_sequence(ClusterAggregate(2, 0, 0, 0, 0, 0), 0.95, 500) == NotEstimable(
        "a mean needs completions, got none in 2 units"
    )


def test_mean_of_a_negative_metric_is_refused() -> None:
    with pytest.raises(ValueError, match="aggregate must be of a metric >= 0, got a mean of -2"):
        mean_sequence(ClusterAggregate.from_values([-1, -3]), 0.95, 500)


def test_mean_of_one_unit_is_not_estimable() -> None:
    assert mean_sequence(ClusterAggregate.from_values([5]), 0.95, 500) == NotEstimable(
        "a mean needs at least 2 units with completions, got 1"
    )


def test_a_level_in_percent_is_refused() -> None:
    with pytest.raises(ValueError, match=r"level must be in \(0, 1\), got 95"):
        mean_sequence(proportion(1, 2), 95, 500)
