"""Whether new traffic agrees with published figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo.measured import Measurement, Observed, compare_with_published, read_measurements, write_measurements

PUBLISHED = Measurement("full", 10, "all", 1000, 980, 267.0, 80.0, 263.0, 2.0, 1.0, 1.0, 0.5)


def observed(correct: int, tokens: float) -> Observed:
    return Observed("full", 10, 500, correct, tokens, 80.0 / 500**0.5)


def test_equal_figures_agree() -> None:
    agreement = compare_with_published([observed(490, 267.0)], [PUBLISHED])
    assert agreement.holds()
    assert agreement.tests == 2


def test_a_lower_em_is_noticed() -> None:
    agreement = compare_with_published([observed(450, 267.0)], [PUBLISHED])
    assert not agreement.holds()
    assert agreement.where == "EM of full"


def test_other_token_counts_are_noticed() -> None:
    agreement = compare_with_published([observed(490, 247.0)], [PUBLISHED])
    assert not agreement.holds()
    assert agreement.where == "tokens of full"


def test_more_arms_raise_the_bar_for_a_difference() -> None:
    one = compare_with_published([observed(480, 267.0)], [PUBLISHED])
    three = compare_with_published([observed(480, 267.0)] * 3, [PUBLISHED])
    assert three.smallest_p == pytest.approx(min(1.0, 3 * one.smallest_p))


def test_an_arm_without_a_published_row_is_named() -> None:
    with pytest.raises(ValueError, match="no published row for arm 'full' at step 10"):
        compare_with_published([observed(490, 267.0)], [])


def test_measurements_survive_their_file(tmp_path: Path) -> None:
    path = tmp_path / "measured.json"
    write_measurements([PUBLISHED], {"seed": 1}, path)
    assert read_measurements(path) == [PUBLISHED]
