"""Quantiles of a skewed metric from a sketch that can be merged, with their intervals."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass

import numpy as np
from datasketches import kll_doubles_sketch
from numpy.typing import ArrayLike
from scipy import stats

from experiments.statistics import checks
from experiments.statistics.results import Interval, NotEstimable

# Largest error of a rank is about 1.3 % at 200 (Karnin, Lang and Liberty 2016), 0.7 % at 400.
_K = 400


@dataclass(frozen=True, slots=True)
class QuantileSketch:
    """A KLL sketch (Karnin, Lang and Liberty, FOCS 2016) as a value: what was added cannot be taken away again.

    Attributes:
        n: values added.
        packed: the sketch in its own binary form, as base64 text; empty for n = 0.
    """

    n: int = 0
    packed: str = ""

    @classmethod
    def empty(cls) -> QuantileSketch:
        """The sketch of no value."""
        return cls()

    def update(self, values: ArrayLike) -> QuantileSketch:
        """The sketch with more values, shape (k,), each finite."""
        added = np.asarray(values, dtype=np.float64)
        if not np.all(np.isfinite(added)):
            raise ValueError("values must be finite, got NaN or infinity")
        if added.size == 0:
            return self
        sketch = self._unpacked()
        sketch.update(added)
        return _packed(sketch)

    def merge(self, other: QuantileSketch) -> QuantileSketch:
        """The sketch of both sets of values."""
        sketch = self._unpacked()
        sketch.merge(other._unpacked())
        return _packed(sketch)

    @property
    def rank_error(self) -> float:
        """Largest error of a rank, as a fraction of n, with 99 % confidence; 0 while all values are still held."""
        if not self.n:
            return 0.0
        sketch = self._unpacked()
        return float(sketch.normalized_rank_error(False)) if sketch.is_estimation_mode() else 0.0

    def quantile(self, q: float) -> float | NotEstimable:
        """The value below which a share q lies, in [0, 1]."""
        if not 0 <= checks.finite("q", q) <= 1:
            raise ValueError(f"q must be in [0, 1], got {q}")
        if not self.n:
            return NotEstimable("a quantile needs at least 1 value, got 0")
        return float(self._unpacked().get_quantile(q))

    def _unpacked(self) -> kll_doubles_sketch:
        if not self.packed:
            return kll_doubles_sketch(_K)
        return kll_doubles_sketch.deserialize(base64.b64decode(self.packed))


def _packed(sketch: kll_doubles_sketch) -> QuantileSketch:
    if not sketch.n:
        return QuantileSketch()
    return QuantileSketch(int(sketch.n), base64.b64encode(sketch.serialize()).decode("ascii"))


@dataclass(frozen=True, slots=True)
class QuantileEstimate:
    """A quantile with its fixed-sample interval.

    Attributes:
        q: which, in (0, 1).
        value: in units of the metric.
        interval: or why there is none.
        observations: values behind it.
    """

    q: float
    value: float
    interval: Interval | NotEstimable
    observations: int


def quantile_estimate(
    sketch: QuantileSketch, q: float, level: float, design_effect: float = 1.0
) -> QuantileEstimate | NotEstimable:
    """A quantile with the interval between two order statistics.

    The number of values below the true quantile is binomial (David and Nagaraja, Order Statistics 2003, section 7.1);
    here with its normal approximation, so that a design effect can widen it where units have several values, and
    widened once more by the sketch's own rank error.

    Args:
        sketch: of the arm's values.
        q: in (0, 1).
        level: nominal coverage in (0, 1).
        design_effect: variance with clusters over variance without, >= 1.
    """
    checks.fraction("q", q)
    checks.fraction("level", level)
    if checks.finite("design_effect", design_effect) < 1:
        raise ValueError(f"design_effect must be >= 1, got {design_effect}")
    value = sketch.quantile(q)
    if isinstance(value, NotEstimable):
        return value
    half = float(stats.norm.isf((1 - level) / 2)) * math.sqrt(q * (1 - q) * design_effect / sketch.n)
    # One value further on each side: the order statistics that enclose, not those that are nearest.
    reach = half + sketch.rank_error + 1 / sketch.n
    low, high = q - reach, q + reach
    return QuantileEstimate(q, value, _between(sketch, low, high, value, level), sketch.n)


def _between(sketch: QuantileSketch, low: float, high: float, value: float, level: float) -> Interval | NotEstimable:
    if low <= 0 or high >= 1:
        return NotEstimable(f"{sketch.n} values are too few to bound this quantile from both sides")
    ends = sketch.quantile(low), sketch.quantile(high)
    bounds = [end for end in ends if isinstance(end, float)]
    return Interval(min(value, *bounds), max(value, *bounds), level)


def quantile_difference(
    control: QuantileEstimate, treatment: QuantileEstimate
) -> tuple[float, Interval | NotEstimable]:
    """A quantile of the treatment minus that of the control, with a fixed-sample interval.

    The two intervals are combined by the method of variance estimates recovery (Zou and Donner, Statistics in Medicine
    2008, eq. 6), which keeps their asymmetry.

    Args:
        control: of the control.
        treatment: the same quantile of the treatment.

    Raises:
        ValueError: they are different quantiles, or their intervals have different levels.
    """
    if control.q != treatment.q:
        raise ValueError(f"treatment.q must be control.q = {control.q}, got {treatment.q}")
    value = treatment.value - control.value
    for side in (control.interval, treatment.interval):
        if isinstance(side, NotEstimable):
            return value, side
    first, second = control.interval, treatment.interval
    assert isinstance(first, Interval)
    assert isinstance(second, Interval)
    if first.level != second.level:
        raise ValueError(f"treatment.interval.level must be control's {first.level}, got {second.level}")
    below = math.hypot(treatment.value - second.lower, first.upper - control.value)
    above = math.hypot(second.upper - treatment.value, control.value - first.lower)
    return value, Interval(value - below, value + above, first.level)
