"""Sufficient statistics of one metric over units that may have several completions each."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments.statistics import checks

# Float sums are rounded, so the Cauchy-Schwarz checks leave room for that; integer sums pass exactly.
_SLACK = 1e-9


@dataclass(frozen=True, slots=True)
class ClusterAggregate:
    """Sums over k units, where unit i has n_i observations (completions) that sum to s_i.

    Integers stay exact whatever their size, so that aggregates add up in any order; floats are accepted.
    The estimand is the mean over observations, ΣS/ΣN: a ratio of two unit means.

    Attributes:
        units: k.
        sum_n: Σ n_i.
        sum_s: Σ s_i, in units of the metric (tokens, or correct answers).
        sum_s2: Σ s_i².
        sum_n2: Σ n_i².
        sum_ns: Σ n_i s_i.

    Raises:
        ValueError: a negative count or square, a number that is not finite, sums without units, or sums that
            no data can have (Cauchy-Schwarz); the message names the field, the value and the bound.
    """

    units: int
    sum_n: float
    sum_s: float
    sum_s2: float
    sum_n2: float
    sum_ns: float

    def __post_init__(self) -> None:
        checks.count("units", self.units)
        checks.non_negative("sum_n", self.sum_n)
        checks.finite("sum_s", self.sum_s)
        checks.non_negative("sum_s2", self.sum_s2)
        checks.non_negative("sum_n2", self.sum_n2)
        checks.finite("sum_ns", self.sum_ns)
        if self.units == 0:
            self._require_empty()
        self._require_possible("sum_n", self.sum_n, self.units, self.sum_n2, "units * sum_n2")
        self._require_possible("sum_s", self.sum_s, self.units, self.sum_s2, "units * sum_s2")
        self._require_possible("sum_ns", self.sum_ns, self.sum_n2, self.sum_s2, "sum_n2 * sum_s2")

    def _require_empty(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value != 0:
                raise ValueError(f"{field.name} must be 0 when units is 0, got {value}")

    @staticmethod
    def _require_possible(name: str, value: float, left: float, right: float, bound: str) -> None:
        if value * value > left * right * (1 + _SLACK):
            raise ValueError(f"{name} squared must be <= {bound} = {left * right}, got {value * value}")

    @classmethod
    def empty(cls) -> ClusterAggregate:
        """The aggregate of no unit: the neutral element of `+`."""
        return cls(units=0, sum_n=0, sum_s=0, sum_s2=0, sum_n2=0, sum_ns=0)

    @classmethod
    def from_arrays(cls, counts: ArrayLike, sums: ArrayLike) -> ClusterAggregate:
        """Aggregates one row per unit.

        Args:
            counts: shape (k,), completions per unit, each an integer >= 1.
            sums: shape (k,), the metric summed over the unit's completions.

        Raises:
            ValueError: shapes that differ, a count that is below 1 or not whole, or a value that is not
                finite.
        """
        n, s = np.asarray(counts), np.asarray(sums)
        if n.ndim != 1 or n.shape != s.shape:
            raise ValueError(f"counts and sums must have one equal shape (k,), got {n.shape} and {s.shape}")
        if n.size == 0:
            return cls.empty()
        if not np.all(np.isfinite(s)):
            raise ValueError("sums must be finite, got NaN or infinity")
        if not np.all(n >= 1) or np.any(n != np.floor(n)):
            raise ValueError(f"counts must be whole numbers >= 1, got {n[~(n >= 1) | (n != np.floor(n))][0]}")
        n_exact, s_exact = exact_array(n), exact_array(s)
        return cls(
            units=int(n.size),
            sum_n=_plain(n_exact.sum()),
            sum_s=_plain(s_exact.sum()),
            sum_s2=_plain((s_exact * s_exact).sum()),
            sum_n2=_plain((n_exact * n_exact).sum()),
            sum_ns=_plain((n_exact * s_exact).sum()),
        )

    @classmethod
    def from_values(cls, values: ArrayLike) -> ClusterAggregate:
        """Aggregates units that have one completion each. `values` has shape (k,)."""
        sums = np.asarray(values)
        return cls.from_arrays(np.ones(sums.shape, dtype=np.int64), sums)

    def __add__(self, other: ClusterAggregate) -> ClusterAggregate:
        """The aggregate over both sets of units, which must be disjoint."""
        return ClusterAggregate(
            units=self.units + other.units,
            sum_n=self.sum_n + other.sum_n,
            sum_s=self.sum_s + other.sum_s,
            sum_s2=self.sum_s2 + other.sum_s2,
            sum_n2=self.sum_n2 + other.sum_n2,
            sum_ns=self.sum_ns + other.sum_ns,
        )

    @property
    def mean(self) -> float:
        """ΣS/ΣN.

        Raises:
            ValueError: sum_n is 0.
        """
        checks.positive("sum_n", self.sum_n)
        return self.sum_s / self.sum_n

    @property
    def variance_of_mean(self) -> float:
        """Linearised cluster variance of the mean: Σ(s_i - mean n_i)² / (ΣN)² · k/(k-1).

        Ratio estimator: Cochran, Sampling Techniques (1977), section 2.11; the delta method of Deng, Knoblich
        and Lu (KDD 2018), "Decoding cluster randomization". With one completion per unit it is s²/n.

        Raises:
            ValueError: fewer than 2 units, or sum_n is 0.
        """
        if self.units < 2:
            raise ValueError(f"units must be >= 2, got {self.units}")
        checks.positive("sum_n", self.sum_n)
        n, s = self.sum_n, self.sum_s
        # Over one denominator: with integer sums nothing is rounded before the division, so nothing cancels.
        scaled = self.sum_s2 * n * n - 2 * s * n * self.sum_ns + s * s * self.sum_n2
        residual = max(0.0, scaled / (n * n))
        return residual / n / n * self.units / (self.units - 1)


def exact_array(values: NDArray[Any]) -> NDArray[Any]:
    """Python integers where the values are whole (sums of squares cannot overflow), floats elsewhere."""
    if values.dtype.kind in "biu" or np.all(values == np.floor(values)):
        whole = np.array([int(value) for value in values.ravel().tolist()], dtype=object)
        return whole.reshape(values.shape)
    return values.astype(np.float64)


def _plain(value: Any) -> float:
    return value if isinstance(value, int) else float(value)
