"""Sums and cross-products over units."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.statistics import ClusterAggregate
from experiments.statistics.moments import UnitMoments

COLUMNS = ("n", "s", "t")
ROWS = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 10**7), st.integers(-(10**6), 10**12)), max_size=12)


def moments(rows: list[tuple[int, ...]]) -> UnitMoments:
    return UnitMoments.from_totals(COLUMNS, np.array(rows, dtype=np.int64).reshape(-1, 3))


@given(ROWS, ROWS)
def test_disjoint_units_add_up_in_any_order(a: list[tuple[int, ...]], b: list[tuple[int, ...]]) -> None:
    assert moments(a) + moments(b) == moments(b) + moments(a) == moments(a + b)


@given(ROWS, ROWS)
def test_what_was_added_can_be_taken_away(a: list[tuple[int, ...]], b: list[tuple[int, ...]]) -> None:
    assert moments(a) + moments(b) - moments(b) == moments(a)


def test_products_beyond_64_bits_stay_exact() -> None:
    assert moments([(1, 0, 10**12)] * 3).product(("t",), ("t",)) == 3 * 10**24


@given(ROWS.filter(bool))
def test_an_aggregate_of_columns_is_the_one_of_their_sum(rows: list[tuple[int, ...]]) -> None:
    expected = ClusterAggregate.from_arrays([row[0] for row in rows], np.array([row[1] + row[2] for row in rows]))
    assert moments(rows).aggregate("n", "s", "t") == expected


def test_units_without_an_observation_are_left_out_by_their_mark() -> None:
    found = UnitMoments.from_totals(("n", "s", "has"), np.array([(2, 1, 1), (0, 0, 0)])).aggregate(
        "n", "s", units="has"
    )
    assert found == ClusterAggregate.from_arrays([2], [1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": ("n", "n", "t")}, "columns must be different"),
        ({"sums": (1, 2)}, "sums must have 3 entries like columns, got 2"),
        ({"products": (1,)}, "products must have 6 entries, got 1"),
        ({"units": 0}, "must be 0 when units is 0"),
        ({"products": (-1, 0, 0, 0, 0, 0)}, "must be >= 0, got -1"),
    ],
)
def test_impossible_moments_are_refused(change: dict[str, object], message: str) -> None:
    good = {"columns": COLUMNS, "units": 1, "sums": (1, 2, 3), "products": (1, 2, 3, 4, 6, 9)}
    with pytest.raises(ValueError, match=message):
        UnitMoments(**(good | change))  # type: ignore[arg-type]


def test_moments_of_other_columns_are_not_added() -> None:
    with pytest.raises(ValueError, match="columns must be"):
        moments([]) + UnitMoments.empty(("n",))
