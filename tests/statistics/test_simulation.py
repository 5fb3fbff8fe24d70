"""Error rates and coverage, simulated with fixed seeds: a short form of what the formulas promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from experiments.statistics import ClusterAggregate, Interval
from experiments.statistics.comparison import compare_em, compare_tokens
from experiments.statistics.relative import fieller_interval
from tests.statistics.builders import design

LOOKS = 100
PER_LOOK = 10
REPLICATIONS = 200
PLAN = design(tuning_n=1_000.0)


def _at_most(alpha: float) -> float:
    """alpha plus three Monte Carlo standard errors."""
    return alpha + 3 * math.sqrt(alpha * (1 - alpha) / REPLICATIONS)


def _looks(counts: NDArray[np.int64], sums: NDArray[np.int64]) -> list[ClusterAggregate]:
    """Cumulative aggregates after each PER_LOOK units."""
    parts = (np.ones_like(counts), counts, sums, sums * sums, counts * counts, counts * sums)
    ends = np.arange(PER_LOOK, counts.size + 1, PER_LOOK) - 1
    columns = [np.cumsum(part)[ends].tolist() for part in parts]
    return [ClusterAggregate(*row) for row in zip(*columns, strict=True)]


def _answers(rng: np.random.Generator, p: float, clusters: bool) -> list[ClusterAggregate]:
    """Answers of LOOKS * PER_LOOK units; in clusters, 1 to 9 a unit with an intra-class correlation of .3."""
    units = LOOKS * PER_LOOK
    if not clusters:
        return _looks(np.ones(units, dtype=np.int64), (rng.random(units) < p).astype(np.int64))
    counts = rng.integers(1, 10, units)
    precision = 1 / 0.3 - 1
    rates = rng.beta(p * precision, (1 - p) * precision, units)
    return _looks(counts, rng.binomial(counts, rates))


@pytest.mark.parametrize("clusters", [False, True])
def test_two_equal_arms_seldom_look_different_at_any_of_100_looks(clusters: bool) -> None:
    rng = np.random.default_rng(11)
    wrong = 0
    for _ in range(REPLICATIONS):
        pairs = zip(_answers(rng, 0.8, clusters), _answers(rng, 0.8, clusters), strict=True)
        intervals = (compare_em(control, treatment, PLAN).difference.interval for control, treatment in pairs)
        wrong += any(isinstance(interval, Interval) and 0.0 not in interval for interval in intervals)
    assert wrong / REPLICATIONS <= _at_most(0.05)


def test_at_the_margin_both_wrong_ships_and_wrong_reverts_are_rare() -> None:
    """A true loss of exactly the margin: whatever is decided is an error of one kind."""
    rng = np.random.default_rng(12)
    shipped = reverted = 0
    for _ in range(REPLICATIONS):
        pairs = zip(_answers(rng, 0.9, False), _answers(rng, 0.85, False), strict=True)
        results = [compare_em(control, treatment, PLAN) for control, treatment in pairs]
        shipped += any(result.p_non_inferiority <= 0.05 for result in results)
        reverted += any(result.upper_bound < -0.05 for result in results)
    assert shipped / REPLICATIONS <= _at_most(0.05)
    assert reverted / REPLICATIONS <= _at_most(0.05)


def test_a_saving_at_the_minimum_is_seldom_taken_for_more() -> None:
    """Skewed tokens (lognormal, sigma 1), treatment exactly 20 % below the control."""
    rng = np.random.default_rng(13)
    ones = np.ones(LOOKS * PER_LOOK, dtype=np.int64)
    wrong = 0
    for _ in range(REPLICATIONS):
        spent = rng.lognormal(7, 1, (2, ones.size)) * np.array([[1.0], [0.8]])
        control, treatment = (_looks(ones, np.rint(row).astype(np.int64)) for row in spent)
        results = (compare_tokens(a, b, PLAN, includes_probes=True) for a, b in zip(control, treatment, strict=True))
        wrong += any(getattr(result, "p_saving", 1.0) <= 0.05 for result in results)
    assert wrong / REPLICATIONS <= _at_most(0.05)


def test_fieller_covers_the_relative_change_of_skewed_tokens() -> None:
    """Lognormal with sigma 1.5, 200 units an arm; nominal 95 %."""
    rng, z, runs, covered = np.random.default_rng(14), float(stats.norm.isf(0.025)), 2_000, 0
    for _ in range(runs):
        a, b = (ClusterAggregate.from_values(row) for row in rng.lognormal(7, 1.5, (2, 200)))
        moments = (a.mean, a.variance_of_mean, 0.7 * b.mean, 0.49 * b.variance_of_mean)
        interval = fieller_interval(*moments, z, 0.95)
        covered += not isinstance(interval, Interval) or -0.3 in interval
    assert covered / runs >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / runs)


def test_a_real_saving_without_loss_is_shipped() -> None:
    """Power: equal EM of .95 and half the tokens are found within 1,000 units an arm in most runs."""
    rng, found = np.random.default_rng(15), 0
    for _ in range(60):
        control, treatment = _answers(rng, 0.95, False), _answers(rng, 0.95, False)
        found += compare_em(control[-1], treatment[-1], PLAN).p_non_inferiority <= 0.05
    assert found / 60 > 0.8
