"""Sample-ratio mismatch: do the first exposures follow the declared weights?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from experiments.statistics import checks


@dataclass(frozen=True, slots=True)
class SequentialSRM:
    """State of the sequential test, to be stored with a look and continued at the next.

    Lindon and Malek, "Anytime-valid inference for multinomial count data" (NeurIPS 2022; arXiv 2011.03567):
    the Bayes factor of a Dirichlet(concentration * weights) alternative against the declared weights. Under
    the null it exceeds 1/u with probability at most u over all looks, so its running minimum inverse is a
    p-value.

    Attributes:
        weights: declared share of each variant, positive, summing to 1.
        counts: exposures so far by variant.
        p_value: running minimum of 1 / Bayes factor over the looks, in (0, 1].
        concentration: how close to the declared weights the alternative is expected to be.
    """

    weights: Mapping[str, float]
    counts: Mapping[str, int]
    p_value: float = 1.0
    concentration: float = 10_000.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", checks.weights("weights", self.weights))
        object.__setattr__(self, "counts", dict(self.counts))
        checks.positive("concentration", self.concentration)
        if not 0 < self.p_value <= 1:
            raise ValueError(f"p_value must be in (0, 1], got {self.p_value}")
        _same_keys("counts", self.counts, self.weights)
        for key, value in self.counts.items():
            checks.count(f"counts[{key!r}]", value)

    @classmethod
    def start(cls, weights: Mapping[str, float], concentration: float = 10_000.0) -> SequentialSRM:
        """The state before the first exposure."""
        return cls(weights=weights, counts=dict.fromkeys(weights, 0), concentration=concentration)

    @property
    def log_bayes_factor(self) -> float:
        """Natural logarithm of the Bayes factor at the present counts; it depends on the totals only."""
        total = sum(self.counts.values())
        log_factor = math.lgamma(self.concentration) - math.lgamma(self.concentration + total)
        for key, weight in self.weights.items():
            prior, seen = self.concentration * weight, self.counts[key]
            log_factor += math.lgamma(prior + seen) - math.lgamma(prior) - seen * math.log(weight)
        return log_factor

    @property
    def posterior_probability(self) -> float:
        """Posterior probability of a mismatch at even prior odds."""
        log_factor = self.log_bayes_factor
        if log_factor >= 0:
            return 1 / (1 + math.exp(-log_factor))
        return math.exp(log_factor) / (1 + math.exp(log_factor))

    def update(self, batch: Mapping[str, int]) -> SequentialSRM:
        """The state after a batch of new exposures by variant."""
        _same_keys("batch", batch, self.weights)
        for key, value in batch.items():
            checks.count(f"batch[{key!r}]", value)
        return self.advance({key: self.counts[key] + batch[key] for key in self.weights})

    def advance(self, counts: Mapping[str, int]) -> SequentialSRM:
        """The state at a look, given all exposures so far.

        Raises:
            ValueError: a variant is missing or unknown, or a count fell since the last look.
        """
        _same_keys("counts", counts, self.weights)
        for key, value in counts.items():
            if value < self.counts[key]:
                raise ValueError(f"counts[{key!r}] must be >= {self.counts[key]} of the last look, got {value}")
        moved = replace(self, counts=dict(counts))
        # exp(-700) is still a normal double; a smaller p-value says nothing more.
        p_now = math.exp(-min(max(moved.log_bayes_factor, 0.0), 700.0))
        return replace(moved, p_value=min(self.p_value, p_now))


@dataclass(frozen=True, slots=True)
class ChiSquare:
    """A fixed-sample chi-square test: statistic, p-value and degrees of freedom."""

    statistic: float
    p_value: float
    degrees_of_freedom: int


def chi_square(observed: Sequence[int], weights: Sequence[float]) -> ChiSquare:
    """Pearson's goodness-of-fit test for one look at a fixed sample size.

    Args:
        observed: shape (k,), exposures by variant, k >= 2, not all 0.
        weights: shape (k,), declared shares, positive, summing to 1.

    Raises:
        ValueError: lengths that differ, a negative count, no exposure, or weights that do not sum to 1.
    """
    if len(observed) != len(weights):
        raise ValueError(f"observed must have {len(weights)} entries like weights, got {len(observed)}")
    checks.weights("weights", {str(i): weight for i, weight in enumerate(weights)})
    for i, value in enumerate(observed):
        checks.count(f"observed[{i}]", value)
    total = checks.positive("sum of observed", sum(observed))
    shares = np.asarray(weights, dtype=np.float64)
    result = stats.chisquare(np.asarray(observed, dtype=np.float64), total * shares / shares.sum())
    return ChiSquare(float(result.statistic), float(result.pvalue), len(observed) - 1)


def _same_keys(name: str, value: Mapping[str, int], expected: Mapping[str, float]) -> None:
    if value.keys() != expected.keys():
        raise ValueError(f"{name} must have the keys {sorted(expected)}, got {sorted(value)}")
