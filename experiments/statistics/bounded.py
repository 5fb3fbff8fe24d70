"""Confidence sequences without asymptotics for the mean of a bounded metric.

Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting" (JRSS B 2024; arXiv 2010.09686).
The metric lies in [0, 1]; scale it first. Valid at every look and every sample size, for independent observations or
any whose conditional mean stays the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments.statistics import checks
from experiments.statistics.results import Interval

_PRIOR_MEAN, _PRIOR_VARIANCE = 0.5, 0.25
_CHUNK = 1_000


@dataclass(frozen=True, slots=True)
class EmpiricalBernstein:
    """The predictable plug-in empirical Bernstein sequence (theorem 2), as a state to be stored and gone on from.

    Attributes:
        alpha: error probability over all times, both sides together.
        truncation: largest bet, in (0, 1).
        n: observations so far.
        sum_x, sum_squares: Σ x, and Σ (x - smoothed running mean)².
        sum_bets, sum_bets_x: Σ λ and Σ λ x.
        penalty_below, penalty_above: Σ v ψ(λ) of the lower and of the upper bound. They differ in the first
            observation, which each holds against the worst case of its own side.
        lower, upper: intersection of the intervals at all times so far.
    """

    alpha: float
    truncation: float = 0.5
    n: int = 0
    sum_x: float = 0.0
    sum_squares: float = 0.0
    sum_bets: float = 0.0
    sum_bets_x: float = 0.0
    penalty_below: float = 0.0
    penalty_above: float = 0.0
    lower: float = 0.0
    upper: float = 1.0

    def __post_init__(self) -> None:
        checks.fraction("alpha", self.alpha)
        checks.fraction("truncation", self.truncation)
        checks.count("n", self.n)

    def advance(self, values: ArrayLike) -> EmpiricalBernstein:
        """The state after more observations, shape (k,), each in [0, 1]; it does not matter how they are split."""
        x = _bounded(values)
        if x.size == 0:
            return self
        times = np.arange(self.n + 1, self.n + x.size + 1)
        sums, squares, bets = _predictable(self.n, self.sum_x, self.sum_squares, x, self.alpha)
        bets = np.minimum(bets, self.truncation)
        before = sums[:-1] / np.maximum(times - 1, 1)
        first = times == 1
        cost = -np.log1p(-bets) - bets
        below = _running(self.penalty_below, (x - np.where(first, 0.0, before)) ** 2 * cost)
        above = _running(self.penalty_above, (x - np.where(first, 1.0, before)) ** 2 * cost)
        sum_bets, sum_bets_x = _running(self.sum_bets, bets), _running(self.sum_bets_x, bets * x)
        centre, log_term = sum_bets_x[1:] / sum_bets[1:], math.log(2 / self.alpha)
        return EmpiricalBernstein(
            alpha=self.alpha,
            truncation=self.truncation,
            n=self.n + int(x.size),
            sum_x=float(sums[-1]),
            sum_squares=float(squares[-1]),
            sum_bets=float(sum_bets[-1]),
            sum_bets_x=float(sum_bets_x[-1]),
            penalty_below=float(below[-1]),
            penalty_above=float(above[-1]),
            lower=max(self.lower, float(np.max(centre - (log_term + below[1:]) / sum_bets[1:]))),
            upper=min(self.upper, float(np.min(centre + (log_term + above[1:]) / sum_bets[1:]))),
        )

    @property
    def at_present(self) -> Interval:
        """The interval of this time alone, without what earlier ones excluded."""
        if self.sum_bets == 0:
            return Interval(0.0, 1.0, 1 - self.alpha)
        centre, log_term = self.sum_bets_x / self.sum_bets, math.log(2 / self.alpha)
        lower = centre - (log_term + self.penalty_below) / self.sum_bets
        upper = centre + (log_term + self.penalty_above) / self.sum_bets
        return Interval(max(0.0, lower), min(1.0, upper), 1 - self.alpha)

    @property
    def interval(self) -> Interval:
        """The intersection of the intervals at all times; a point between them where they contradict each other."""
        return _interval(self.lower, self.upper, 1 - self.alpha)


@dataclass(frozen=True, slots=True)
class HedgedCapital:
    """The hedged capital of bets for and against each of a grid of means (section 4.3, theorem 3).

    Narrower than empirical Bernstein, at a cost in proportion to the grid.

    Attributes:
        alpha: error probability over all times.
        grid: number of means, evenly spaced in (0, 1).
        n: observations so far.
        sum_x, sum_squares: Σ x, and Σ (x - running mean)².
        log_up, log_down: logarithm of the capital of the bets on a larger and on a smaller mean.
        peak: largest logarithm of the hedged capital so far, for each mean.
    """

    alpha: float
    grid: int = 400
    n: int = 0
    sum_x: float = 0.0
    sum_squares: float = 0.0
    log_up: tuple[float, ...] = ()
    log_down: tuple[float, ...] = ()
    peak: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        checks.fraction("alpha", self.alpha)
        if checks.count("grid", self.grid) < 10:
            raise ValueError(f"grid must be >= 10, got {self.grid}")
        for name in ("log_up", "log_down", "peak"):
            stored = getattr(self, name)
            if not stored:
                object.__setattr__(self, name, (0.0,) * self.grid)
            elif len(stored) != self.grid:
                raise ValueError(f"{name} must have grid = {self.grid} entries, got {len(stored)}")

    @property
    def means(self) -> NDArray[np.float64]:
        """The means that are tested, shape (grid,)."""
        return (np.arange(self.grid) + 0.5) / self.grid

    def advance(self, values: ArrayLike) -> HedgedCapital:
        """The state after more observations, shape (k,), each in [0, 1]; it does not matter how they are split."""
        x, state = _bounded(values), self
        for start in range(0, x.size, _CHUNK):
            state = state._advance_chunk(x[start : start + _CHUNK])
        return state

    def _advance_chunk(self, x: NDArray[np.float64]) -> HedgedCapital:
        sums, squares, bets = _predictable(self.n, self.sum_x, self.sum_squares, x, self.alpha)
        bets = bets[:, None]
        m = self.means[None, :]
        distance = x[:, None] - m
        # Half of what would risk ruin.
        up = _running_rows(self.log_up, np.log1p(np.minimum(bets, 0.5 / m) * distance))
        down = _running_rows(self.log_down, np.log1p(-np.minimum(bets, 0.5 / (1 - m)) * distance))
        hedged = np.maximum(up[1:], down[1:]) - math.log(2)
        return HedgedCapital(
            alpha=self.alpha,
            grid=self.grid,
            n=self.n + int(x.size),
            sum_x=float(sums[-1]),
            sum_squares=float(squares[-1]),
            log_up=tuple(up[-1].tolist()),
            log_down=tuple(down[-1].tolist()),
            peak=tuple(np.maximum(np.array(self.peak), hedged.max(axis=0)).tolist()),
        )

    @property
    def interval(self) -> Interval:
        """The means that no bet has refuted, widened by one step of the grid on each side."""
        kept = np.flatnonzero(np.array(self.peak) < math.log(1 / self.alpha))
        if kept.size == 0:
            middle = self.sum_x / max(1, self.n)
            return Interval(middle, middle, 1 - self.alpha)
        step = 1 / self.grid
        low, high = float(self.means[kept[0]]) - step, float(self.means[kept[-1]]) + step
        return Interval(max(0.0, low), min(1.0, high), 1 - self.alpha)


def hoeffding_interval(values: ArrayLike, alpha: float) -> Interval:
    """The predictable plug-in Hoeffding sequence at the last of the observations (theorem 1): wider, and simpler.

    Args:
        values: shape (k,), k >= 1, each in [0, 1], in order.
        alpha: error probability over all times, in (0, 1).
    """
    x, log_term = _bounded(values), math.log(2 / checks.fraction("alpha", alpha))
    checks.positive("the number of values", int(x.size))
    times = np.arange(1, x.size + 1)
    bets = np.minimum(1.0, np.sqrt(8 * log_term / (times * np.log1p(times))))
    centre = np.cumsum(bets * x) / np.cumsum(bets)
    half = (log_term + np.cumsum(bets**2 / 8)) / np.cumsum(bets)
    return _interval(max(0.0, float(centre[-1] - half[-1])), min(1.0, float(centre[-1] + half[-1])), 1 - alpha)


def _predictable(
    n: int, sum_x: float, sum_squares: float, x: NDArray[np.float64], alpha: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Running sums, running squares and the bets λ (eq. 15), each of which knows only what came before its turn."""
    times = np.arange(n + 1, n + x.size + 1)
    sums = _running(sum_x, x)
    squares = _running(sum_squares, (x - (_PRIOR_MEAN + sums[1:]) / (times + 1)) ** 2)
    variances = (_PRIOR_VARIANCE + squares[:-1]) / times
    return sums, squares, np.sqrt(2 * math.log(2 / alpha) / (times * np.log1p(times) * variances))


def _bounded(values: ArrayLike) -> NDArray[np.float64]:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1:
        raise ValueError(f"values must have the shape (k,), got {x.shape}")
    if not np.all((x >= 0) & (x <= 1)):
        raise ValueError(f"values must be in [0, 1], got {x[~((x >= 0) & (x <= 1))][0]}")
    return x


def _running(start: float, steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Running sums from `start`, one addition after the other, so that a split changes no bit; shape (k + 1,)."""
    return np.cumsum(np.concatenate(((start,), steps)))


def _running_rows(start: tuple[float, ...], steps: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.cumsum(np.concatenate((np.array(start)[None, :], steps)), axis=0)


def _interval(lower: float, upper: float, level: float) -> Interval:
    if lower > upper:
        lower = upper = (lower + upper) / 2
    return Interval(lower, upper, level)
