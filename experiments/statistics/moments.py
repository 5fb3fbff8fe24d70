"""Sums and cross-products of several columns over units: all that a look needs to know of an arm."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments.statistics import checks
from experiments.statistics.aggregates import ClusterAggregate, exact_array


@dataclass(frozen=True, slots=True)
class UnitMoments:
    """First and second moments over k units, where unit i has one total per column.

    From them come means, ratios and covariances of any linear combination of the columns, with units as
    clusters. Integers stay exact whatever their size, so that moments add up in any order, and what was added
    can be taken away again when a unit's totals change.

    Attributes:
        columns: names, in the order of `sums`.
        units: k.
        sums: Σ_i x_ij for each column j.
        products: Σ_i x_ij x_il for each pair j <= l, row by row of the upper triangle.

    Raises:
        ValueError: names that repeat, lengths that do not fit, a negative square, or sums without units.
    """

    columns: tuple[str, ...]
    units: int
    sums: tuple[float, ...]
    products: tuple[float, ...]

    def __post_init__(self) -> None:
        checks.count("units", self.units)
        width = len(self.columns)
        if len(set(self.columns)) != width:
            raise ValueError(f"columns must be different, got {list(self.columns)}")
        if len(self.sums) != width:
            raise ValueError(f"sums must have {width} entries like columns, got {len(self.sums)}")
        if len(self.products) != width * (width + 1) // 2:
            raise ValueError(f"products must have {width * (width + 1) // 2} entries, got {len(self.products)}")
        for j, name in enumerate(self.columns):
            checks.finite(f"sums[{name!r}]", self.sums[j])
            checks.non_negative(f"products[{name!r}²]", self.products[self._index(j, j)])
        if self.units == 0 and (any(self.sums) or any(self.products)):
            raise ValueError("sums and products must be 0 when units is 0")

    def _index(self, j: int, other: int) -> int:
        low, high = min(j, other), max(j, other)
        return low * len(self.columns) - low * (low - 1) // 2 + high - low

    @classmethod
    def empty(cls, columns: Sequence[str]) -> UnitMoments:
        """The moments of no unit: the neutral element of `+`."""
        width = len(columns)
        return cls(tuple(columns), 0, (0,) * width, (0,) * (width * (width + 1) // 2))

    @classmethod
    def from_totals(cls, columns: Sequence[str], totals: ArrayLike) -> UnitMoments:
        """Moments of one row of totals per unit.

        Args:
            columns: names, width w.
            totals: shape (k, w).

        Raises:
            ValueError: another shape, or a value that is not finite.
        """
        values = np.asarray(totals)
        if values.ndim != 2 or values.shape[1] != len(columns):
            raise ValueError(f"totals must have the shape (k, {len(columns)}), got {values.shape}")
        if values.shape[0] == 0:
            return cls.empty(columns)
        exact = _fast(values)
        upper = np.triu_indices(len(columns))
        products = (exact.T @ exact)[upper].tolist()
        return cls(tuple(columns), int(values.shape[0]), tuple(exact.sum(axis=0).tolist()), tuple(products))

    def __add__(self, other: UnitMoments) -> UnitMoments:
        """The moments over both sets of units, which must be disjoint."""
        return self._merge(other, 1)

    def __sub__(self, other: UnitMoments) -> UnitMoments:
        """The moments without some of the units. Exact for integers only."""
        return self._merge(other, -1)

    def _merge(self, other: UnitMoments, sign: int) -> UnitMoments:
        if self.columns != other.columns:
            raise ValueError(f"columns must be {list(self.columns)}, got {list(other.columns)}")
        return UnitMoments(
            self.columns,
            self.units + sign * other.units,
            tuple(a + sign * b for a, b in zip(self.sums, other.sums, strict=True)),
            tuple(a + sign * b for a, b in zip(self.products, other.products, strict=True)),
        )

    def total(self, *names: str) -> float:
        """The sum over units of one column, or of several added up."""
        return sum(self.sums[self._column(name)] for name in names)

    def units_with(self, *combinations: Mapping[str, float]) -> int:
        """A lower bound of the number of units in which any of these linear combinations of columns is not 0.

        The largest (Σ u)² / Σ u² of them, rounded up: by Cauchy and Schwarz no fewer units have a part in the sum. Of
        a count it is Kish's (1965) effective number of units: exact where all that have a count have the same, and
        smaller where few units have most of the counts.
        """
        found = [0]
        for weights in combinations:
            square = self.covariance(weights, weights)
            total = sum(weight * self.total(name) for name, weight in weights.items())
            if square > 0:
                # Rounding errors of the division alone must not add a unit.
                found.append(math.ceil(total * total / square * (1 - 1e-12)))
        return max(found)

    def product(self, left: Iterable[str], right: Iterable[str]) -> float:
        """Σ_i (sum of the left columns of unit i) (sum of its right columns)."""
        rows, columns = [self._column(name) for name in left], [self._column(name) for name in right]
        return sum(self.products[self._index(j, other)] for j in rows for other in columns)

    def _column(self, name: str) -> int:
        if name not in self.columns:
            raise ValueError(f"column must be one of {list(self.columns)}, got {name!r}")
        return self.columns.index(name)

    def covariance(self, left: Mapping[str, float], right: Mapping[str, float]) -> float:
        """Σ_i u_i v_i for linear combinations u and v of the columns (no centring).

        Args:
            left: weight by column.
            right: weight by column.
        """
        return float(
            sum(a * b * self.product((first,), (second,)) for first, a in left.items() for second, b in right.items())
        )

    def aggregate(self, counts: str, *sums: str, units: str | None = None) -> ClusterAggregate:
        """The aggregate of a metric: the columns `sums` added up, over the count column.

        Args:
            counts: column with the observations per unit.
            sums: columns whose sum is the metric's total per unit.
            units: 0/1 column that marks the units with at least one observation; None: all have one.
        """
        return ClusterAggregate(
            units=int(self.total(units)) if units is not None else self.units,
            sum_n=self.total(counts),
            sum_s=self.total(*sums),
            sum_s2=self.product(sums, sums),
            sum_n2=self.product((counts,), (counts,)),
            sum_ns=self.product((counts,), sums),
        )


def _fast(values: NDArray[Any]) -> NDArray[Any]:
    """The values in a type whose sums of products are exact for integers: 64 bits where they cannot overflow."""
    if values.dtype.kind in "iu":
        largest = max(abs(int(values.max())), abs(int(values.min())))
        if largest * largest * values.shape[0] < 2**63:
            return values.astype(np.int64)
    return exact_array(values)
