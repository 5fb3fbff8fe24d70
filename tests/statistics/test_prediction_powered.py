"""Prediction-powered estimates: a wrong judge widens them, and never moves them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from experiments.statistics import Interval, NotEstimable
from experiments.statistics.moments import UnitMoments
from experiments.statistics.prediction_powered import (
    Rectified,
    RectifiedContrast,
    rectified_contrast,
    rectified_em,
)
from tests.statistics.builders import design

COLUMNS = ("completions", "proxy", "labelled", "correct", "labelled_proxy")


def arm(
    seed: int, n: int = 2_000, em: float = 0.8, share: float = 0.1, hits: float = 0.9, slips: float = 0.3
) -> UnitMoments:
    """Requests whose judge says right with probability `hits` where the answer is, and `slips` where it is not."""
    rng = np.random.default_rng(seed)
    right = rng.random(n) < em
    judged = np.where(right, rng.random(n) < hits, rng.random(n) < slips)
    labelled = rng.random(n) < share
    rows = (np.ones(n), 100 * judged, labelled, labelled & right, 100 * (labelled & judged))
    return UnitMoments.from_totals(COLUMNS, np.stack([np.asarray(row, dtype=np.int64) for row in rows], axis=1))


def rectified(moments: UnitMoments, power_tuning: float | None = None) -> Rectified:
    found = rectified_em(moments, 0.95, power_tuning)
    assert isinstance(found, Rectified)
    return found


def test_the_truth_is_covered_though_the_judge_is_biased() -> None:
    """The judge alone says .78 on average; nominal 95 %."""
    runs, covered = 400, 0
    for seed in range(runs):
        found = rectified(arm(seed, slips=0.3))
        assert isinstance(found.em.interval, Interval)
        covered += 0.8 in found.em.interval
    assert covered / runs >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / runs)


def test_the_estimate_is_unbiased_where_the_judge_alone_is_far_off() -> None:
    found = [rectified(arm(seed, slips=1.0, hits=0.95)) for seed in range(100)]
    assert np.mean([item.prediction_mean for item in found]) > 0.94
    assert np.mean([item.em.value for item in found]) == pytest.approx(0.8, abs=0.01)


def test_a_good_judge_narrows_and_a_useless_one_does_not_widen() -> None:
    good, useless = (arm(1, hits=h, slips=s) for h, s in ((0.98, 0.02), (0.5, 0.5)))
    assert rectified(good).em.se < 0.6 * rectified(good, 0.0).em.se
    assert rectified(useless).em.se <= rectified(useless, 0.0).em.se
    assert rectified(useless).power_tuning < 0.3


def test_without_predictions_it_is_the_mean_of_the_labels() -> None:
    moments = arm(2)
    assert rectified(moments, 0.0).em.value == pytest.approx(moments.total("correct") / moments.total("labelled"))


def test_the_variance_agrees_with_repeated_draws() -> None:
    found = [rectified(arm(seed)) for seed in range(300)]
    spread = float(np.std([item.em.value for item in found]))
    assert np.mean([item.em.se for item in found]) == pytest.approx(spread, rel=0.12)


def test_arms_are_rectified_apart() -> None:
    """A judge that favours the treatment's wrong answers does not make it look better."""
    found = rectified_contrast(arm(3, n=20_000, slips=0.1), arm(4, n=20_000, slips=0.9), design())
    assert isinstance(found, RectifiedContrast)
    assert found.treatment.bias > found.control.bias + 0.1
    assert isinstance(found.difference.interval, Interval)
    assert 0.0 in found.difference.interval


def test_few_labels_are_few_whatever_the_number_of_predictions() -> None:
    """Thirty labels, all right, among 100,000 requests: a loss of 5 points leaves them right 21 % of the time."""
    labelled = (np.arange(100_000) < 30).astype(np.int64)
    rows = (np.ones_like(labelled), 90 + np.arange(100_000) % 2, labelled, labelled, labelled * 90)
    moments = UnitMoments.from_totals(COLUMNS, np.stack(rows, axis=1))
    found = rectified_contrast(moments, moments, design())
    assert isinstance(found, RectifiedContrast)
    assert (found.difference.units, found.p_non_inferiority > 0.05) == (60, True)


def test_29_labelled_units_are_too_few_for_repeated_looks() -> None:
    rows = np.array([(1, 100, int(i < 29), int(i < 29), 100 * int(i < 29)) for i in range(1_000)])
    few = UnitMoments.from_totals(COLUMNS, rows)
    found = rectified_contrast(arm(1), few, design())
    assert found == NotEstimable("at least 30 labelled units are needed in each arm, got 29")


def test_at_the_margin_a_loss_is_seldom_called_less() -> None:
    """1 % labels, 50 looks, declared 5 %: it was 21 % where N counted all requests."""
    rng, runs, wrong = np.random.default_rng(8), 150, 0
    for _ in range(runs):
        sides, found = [UnitMoments.empty(COLUMNS)] * 2, []
        for _look in range(50):
            parts = [arm(int(rng.integers(1 << 30)), 200, em, 0.01, 0.9, 0.1) for em in (0.95, 0.9)]
            sides = [side + part for side, part in zip(sides, parts, strict=True)]
            found.append(rectified_contrast(sides[0], sides[1], design(tuning_n=5_000.0)))
        wrong += any(isinstance(item, RectifiedContrast) and item.p_non_inferiority <= 0.05 for item in found)
    assert wrong / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_one_label_is_not_enough() -> None:
    moments = UnitMoments.from_totals(COLUMNS, np.array([(1, 100, 1, 1, 100), (1, 0, 0, 0, 0)]))
    assert isinstance(rectified_em(moments, 0.95), NotEstimable)


def test_a_tuning_above_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"power_tuning must be in \[0, 1\], got 2"):
        rectified_em(arm(5), 0.95, 2)


@pytest.mark.parametrize(
    ("power_tuning", "estimate", "lower", "upper"),
    [
        (1.0, 0.5299650349650349, 0.4736475697311294, 0.5862825001989403),
        (0.6, 0.5305664335664336, 0.4664065172685637, 0.5947263498643033),
    ],
)
def test_it_agrees_with_ppi_python(power_tuning: float, estimate: float, lower: float, upper: float) -> None:
    """ppi-python 0.2.3, ppi_mean_pointestimate and ppi_mean_ci.

    It averages predictions over the unlabelled requests, this over all of them: with lambda times the unlabelled
    share there, both are the same. Its variance lacks the factor k/(k - 1).
    """
    i = np.arange(1_000)
    judged, labelled = (i * 37) % 100, (i % 7 == 3).astype(np.int64)
    right = ((i * 37) % 100 + (i * 91) % 40 - 20 > 45).astype(np.int64)
    rows = (np.ones_like(i), judged, labelled, labelled * right, labelled * judged)
    found = rectified(UnitMoments.from_totals(COLUMNS, np.stack(rows, axis=1)), power_tuning).em
    assert isinstance(found.interval, Interval)
    assert found.value == pytest.approx(estimate, rel=1e-12)
    half = (found.interval.upper - found.interval.lower) / 2 * math.sqrt(999 / 1000)
    assert half == pytest.approx((upper - lower) / 2, rel=1e-5)
