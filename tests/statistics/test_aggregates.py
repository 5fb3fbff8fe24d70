"""ClusterAggregate: sums, the cluster variance, and what it refuses."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.statistics import ClusterAggregate

UNITS = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 100_000)), min_size=2, max_size=30)


def _of(rows: list[tuple[int, int]]) -> ClusterAggregate:
    return ClusterAggregate.from_arrays([n for n, _ in rows], [s for _, s in rows])


@given(UNITS, st.randoms(use_true_random=False))
def test_aggregates_add_up_in_any_order(rows: list[tuple[int, int]], random: Any) -> None:
    whole = _of(rows)
    shuffled = list(rows)
    random.shuffle(shuffled)
    total = ClusterAggregate.empty()
    for row in shuffled:
        total = total + _of([row])
    assert total == whole


@given(UNITS)
def test_variance_equals_the_residual_form(rows: list[tuple[int, int]]) -> None:
    """Cochran 1977, section 2.11, written out over the units."""
    n, s = np.array(rows, dtype=float).T
    k, mean = len(rows), s.sum() / n.sum()
    expected = ((s - mean * n) ** 2).sum() / n.sum() ** 2 * k / (k - 1)
    assert _of(rows).variance_of_mean == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_variance_with_one_completion_per_unit_is_that_of_a_mean() -> None:
    values = np.random.default_rng(5).lognormal(7, 1, 400)
    aggregate = ClusterAggregate.from_values(values)
    assert aggregate.mean == pytest.approx(values.mean(), rel=1e-12)
    assert aggregate.variance_of_mean == pytest.approx(values.var(ddof=1) / 400, rel=1e-9)


def test_variance_survives_a_mean_that_dwarfs_the_spread() -> None:
    """1e9 + {0, 1}: the textbook sum of squares loses this in doubles."""
    aggregate = ClusterAggregate.from_values(np.array([10**9, 10**9 + 1] * 50))
    assert aggregate.variance_of_mean == pytest.approx(0.25 / 99, rel=1e-12)


def test_large_integers_do_not_overflow() -> None:
    aggregate = ClusterAggregate.from_values(np.array([4_000_000_000, 4_000_000_001], dtype=np.int64))
    assert aggregate.sum_s2 == 4_000_000_000**2 + 4_000_000_001**2


def test_an_empty_array_is_the_empty_aggregate() -> None:
    assert ClusterAggregate.from_values([]) == ClusterAggregate.empty()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"units": -1}, r"units must be >= 0, got -1"),
        ({"sum_n": -5}, r"sum_n must be >= 0, got -5"),
        ({"sum_s": float("nan")}, r"sum_s must be finite, got nan"),
        ({"sum_s2": -1.0}, r"sum_s2 must be >= 0, got -1.0"),
        ({"units": 0}, r"sum_n must be 0 when units is 0, got 4"),
        ({"sum_s": 100}, r"sum_s squared must be <= units \* sum_s2 = 10, got 10000"),
        ({"sum_n2": 1}, r"sum_n squared must be <= units \* sum_n2 = 2, got 16"),
    ],
)
def test_impossible_sums_are_refused(change: dict[str, float], message: str) -> None:
    good = ClusterAggregate(units=2, sum_n=4, sum_s=3, sum_s2=5, sum_n2=8, sum_ns=6)
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(good, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("counts", "sums", "message"),
    [
        ([1, 2], [1.0], r"one equal shape \(k,\), got \(2,\) and \(1,\)"),
        ([1, 0], [1.0, 2.0], r"counts must be whole numbers >= 1, got 0"),
        ([1, 1.5], [1.0, 2.0], r"counts must be whole numbers >= 1, got 1.5"),
        ([1, 1], [1.0, float("inf")], r"sums must be finite"),
    ],
)
def test_bad_arrays_are_refused(counts: list[float], sums: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClusterAggregate.from_arrays(counts, sums)


def test_no_mean_without_completions() -> None:
    with pytest.raises(ValueError, match="sum_n must be > 0, got 0"):
        _ = ClusterAggregate.empty().mean


def test_no_variance_of_one_unit() -> None:
    with pytest.raises(ValueError, match="units must be >= 2, got 1"):
        _ = ClusterAggregate.from_values([3]).variance_of_mean
