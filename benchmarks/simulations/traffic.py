"""Simulated traffic: units with one or many completions, answers, tokens."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from experiments.statistics import ClusterAggregate

Ints = NDArray[np.int64]
LOOKS = 100


def sizes(rng: np.random.Generator, units: int, kind: str) -> Ints:
    """Completions per unit: one, a few (1 to 9), or heavy users (Zipf, at most 200)."""
    if kind == "single":
        return np.ones(units, dtype=np.int64)
    if kind == "few":
        return rng.integers(1, 10, units)
    return np.minimum(rng.zipf(2.2, units), 200).astype(np.int64)


def answers(rng: np.random.Generator, counts: Ints, p: float, correlation: float) -> Ints:
    """Correct answers per unit; `correlation` is the intra-class correlation (beta-binomial)."""
    if correlation == 0 or p in (0.0, 1.0):
        return rng.binomial(counts, p)
    precision = 1 / correlation - 1
    return rng.binomial(counts, rng.beta(p * precision, (1 - p) * precision, counts.size))


def tokens(rng: np.random.Generator, counts: Ints, mean: float, sigma: float) -> Ints:
    """Lognormal tokens summed over each unit's completions; half of the log-variance is the unit's own."""
    own = rng.normal(0, sigma / np.sqrt(2), counts.size)
    noise = rng.normal(0, sigma / np.sqrt(2), int(counts.sum()))
    each = mean * np.exp(np.repeat(own, counts) + noise - sigma**2 / 2)
    starts = np.concatenate(([0], np.cumsum(counts)[:-1]))
    totals: Ints = np.rint(np.add.reduceat(each, starts)).astype(np.int64)
    return totals


def looks(counts: Ints, sums: Ints, per_look: int) -> list[ClusterAggregate]:
    """Cumulative aggregates after each `per_look` units."""
    parts = (np.ones_like(counts), counts, sums, sums * sums, counts * counts, counts * sums)
    ends = np.arange(per_look, counts.size + 1, per_look) - 1
    columns = [np.cumsum(part)[ends].tolist() for part in parts]
    return [ClusterAggregate(*row) for row in zip(*columns, strict=True)]
