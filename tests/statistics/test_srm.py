"""Sample-ratio mismatch: the sequential state and the fixed test."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.statistics import SequentialSRM
from experiments.statistics.multiplicity import holm
from experiments.statistics.srm import chi_square

WEIGHTS = {"full": 0.5, "early": 0.5}
BATCHES = st.lists(st.tuples(st.integers(0, 5_000), st.integers(0, 5_000)), max_size=8)


def _run(batches: list[tuple[int, int]]) -> SequentialSRM:
    state = SequentialSRM.start(WEIGHTS)
    for full, early in batches:
        state = state.update({"full": full, "early": early})
    return state


@given(BATCHES, st.randoms(use_true_random=False))
def test_bayes_factor_does_not_depend_on_the_order_of_batches(batches: list[tuple[int, int]], random: Any) -> None:
    shuffled = list(batches)
    random.shuffle(shuffled)
    assert _run(shuffled).log_bayes_factor == _run(batches).log_bayes_factor


@given(BATCHES, st.tuples(st.integers(0, 5_000), st.integers(0, 5_000)))
def test_p_value_never_rises(batches: list[tuple[int, int]], last: tuple[int, int]) -> None:
    before, after = _run(batches), _run([*batches, last])
    assert 0 < after.p_value <= before.p_value <= 1


def test_a_mismatch_is_found() -> None:
    assert _run([(5_600, 4_400)]).p_value < 0.001


def test_a_gross_mismatch_keeps_a_p_value_above_zero() -> None:
    assert 0 < _run([(10_000_000, 0)]).p_value < 1e-300


def test_advancing_to_totals_equals_updating_by_batches() -> None:
    by_totals = SequentialSRM.start(WEIGHTS).advance({"full": 60, "early": 40})
    by_totals = by_totals.advance({"full": 100, "early": 130})
    assert by_totals == _run([(60, 40), (40, 90)])


def test_falling_counts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"counts\['full'\] must be >= 60 of the last look, got 59"):
        _run([(60, 40)]).advance({"full": 59, "early": 41})


def test_negative_batches_are_refused() -> None:
    with pytest.raises(ValueError, match=r"batch\['full'\] must be >= 0, got -1"):
        _run([]).update({"full": -1, "early": 1})


def test_unknown_variants_are_refused() -> None:
    with pytest.raises(ValueError, match=r"batch must have the keys \['early', 'full'\], got \['other'\]"):
        _run([]).update({"other": 1})


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"full": 50, "early": 50}, r"weights\['full'\] must be in \(0, 1\), got 50"),
        ({"full": 0.5, "early": 0.4}, r"weights must sum to 1 \(within 1e-6\), got 0.9"),
        ({"full": 0.5}, r"weights must have at least 2 entries, got 1"),
    ],
)
def test_bad_weights_are_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SequentialSRM.start(weights)


def test_chi_square_refuses_no_exposures() -> None:
    with pytest.raises(ValueError, match="sum of observed must be > 0, got 0"):
        chi_square([0, 0], [0.5, 0.5])


def test_chi_square_refuses_weights_of_another_length() -> None:
    with pytest.raises(ValueError, match="observed must have 2 entries like weights, got 3"):
        chi_square([1, 2, 3], [0.5, 0.5])


def test_holm_refuses_a_p_value_above_one() -> None:
    with pytest.raises(ValueError, match=r"p_values\['a'\] must be in \[0, 1\], got 1.5"):
        holm({"a": 1.5})


def test_holm_refuses_an_empty_family() -> None:
    with pytest.raises(ValueError, match="p_values must have at least 1 entry, got 0"):
        holm({})
