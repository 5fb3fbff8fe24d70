"""An exact test and interval for the difference of two proportions that hold at every look.

Turner, Ly and Grünwald, "Generic E-variables for exact sequential k-sample tests that allow for optional stopping"
(Journal of Statistical Planning and Inference 2024; arXiv 2106.02693), and Turner and Grünwald, "Exact anytime-valid
confidence intervals for contingency tables and beyond" (Statistics and Probability Letters 2023; arXiv 2203.09785).

Observations are independent and come in blocks whose sizes are fixed before their outcomes are seen. For a block with
n_c and n_t observations, an alternative (c*, t*) estimated from earlier blocks, and a convex set of nulls, the factor

    product over both arms g of  (g*/g°)^s_g ((1 - g*)/(1 - g°))^(n_g - s_g)

has expectation at most 1 under every null when (c°, t°) is the null that minimises n_c KL(c* || c) + n_t KL(t* || t)
(theorem 1 there). On the boundary t - c = d that is the restricted maximum likelihood estimate for n_c c* and n_t t*
successes, which has a closed form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments.statistics import checks
from experiments.statistics.results import Estimate, Interval, NotEstimable
from experiments.statistics.score_test import restricted_mle

GRID_STEP = 0.0025
# The paper's recommended prior counts of the plug-in estimate (section 4.2).
_PRIOR = 0.18
_SMALLEST_BLOCK = 10
# A block of 1 % of what came before costs no power worth speaking of, and keeps their number small.
_BLOCK_SHARE = 100

Alternative = Literal["greater", "less"]


@dataclass(frozen=True, slots=True)
class SafeDifference:
    """State of the test, to be stored between looks and gone on from.

    Attributes:
        nulls: differences (treatment - control) that are tested, ascending, each in (-1, 1).
        log_greater: natural logarithm of the e-value against "difference <= null", for each null.
        log_less: the same against "difference >= null".
        peak_greater: the largest of `log_greater` at any block so far.
        peak_less: the same of `log_less`.
        counts: observations and successes in finished blocks: control, control, treatment, treatment.
        pending: the same in the block under way.
    """

    nulls: tuple[float, ...]
    log_greater: tuple[float, ...]
    log_less: tuple[float, ...]
    peak_greater: tuple[float, ...]
    peak_less: tuple[float, ...]
    counts: tuple[int, ...] = (0, 0, 0, 0)
    pending: tuple[int, ...] = (0, 0, 0, 0)

    def __post_init__(self) -> None:
        if not self.nulls or list(self.nulls) != sorted(set(self.nulls)):
            raise ValueError(f"nulls must be different and ascending, at least 1, got {list(self.nulls)[:5]}")
        for null in (self.nulls[0], self.nulls[-1]):
            checks.fraction("nulls", null, low=-1.0)
        for name in ("log_greater", "log_less", "peak_greater", "peak_less"):
            if len(getattr(self, name)) != len(self.nulls):
                raise ValueError(f"{name} must have {len(self.nulls)} entries, got {len(getattr(self, name))}")
        for name in ("counts", "pending"):
            _check_counts(name, getattr(self, name))

    @classmethod
    def start(cls, nulls: Sequence[float]) -> SafeDifference:
        """The state before the first observation."""
        zeros = (0.0,) * len(nulls)
        return cls(tuple(float(null) for null in nulls), zeros, zeros, zeros, zeros)

    @classmethod
    def for_interval(cls, margin: float) -> SafeDifference:
        """The state before the first observation, on a grid fine enough for an interval.

        Args:
            margin: the null -margin is on the grid exactly; a fraction in (0, 1).
        """
        checks.fraction("margin", margin)
        steps = round(1 / GRID_STEP)
        grid = {round(step * GRID_STEP, 10) for step in range(-steps + 1, steps)}
        near = min(grid, key=lambda null: abs(null + margin))
        if abs(near + margin) < GRID_STEP / 100:
            grid.discard(near)
        return cls.start(sorted(grid | {-margin}))

    def advance(self, arms: ArrayLike, successes: ArrayLike) -> SafeDifference:
        """The state after more observations; it does not matter over how many calls they are spread.

        Args:
            arms: shape (k,), 0 for control and 1 for treatment, in order of admission.
            successes: shape (k,), 0 or 1.
        """
        arm, success = np.asarray(arms, dtype=np.int64), np.asarray(successes, dtype=np.int64)
        if arm.ndim != 1 or arm.shape != success.shape:
            raise ValueError(f"arms and successes must have one equal shape (k,), got {arm.shape} and {success.shape}")
        for name, values in (("arms", arm), ("successes", success)):
            if values.size and not 0 <= values.min() <= values.max() <= 1:
                raise ValueError(f"{name} must be 0 or 1, got {values[(values < 0) | (values > 1)][0]}")
        columns = np.stack((1 - arm, (1 - arm) * success, arm, arm * success))
        running = np.concatenate((np.zeros((4, 1), dtype=np.int64), np.cumsum(columns, axis=1)), axis=1)
        return self._advance(running)

    def _advance(self, running: NDArray[np.int64]) -> SafeDifference:
        """`running` has shape (4, k + 1): cumulative counts of the new observations."""
        nulls = np.array(self.nulls)
        logs, peaks = np.array((self.log_greater, self.log_less)), np.array((self.peak_greater, self.peak_less))
        counts, pending = np.array(self.counts), np.array(self.pending)
        done, last = 0, running.shape[1] - 1
        while True:
            missing = _block_size(int(counts[0] + counts[2])) - int(pending[0] + pending[2])
            end = min(done + missing, last)
            pending = pending + running[:, end] - running[:, done]
            done = end
            if int(pending[0] + pending[2]) < _block_size(int(counts[0] + counts[2])):
                break
            logs = logs + _log_factors(nulls, counts, pending)
            peaks = np.maximum(peaks, logs)
            counts, pending = counts + pending, np.zeros(4, dtype=np.int64)
        return replace(
            self,
            log_greater=tuple(logs[0].tolist()),
            log_less=tuple(logs[1].tolist()),
            peak_greater=tuple(peaks[0].tolist()),
            peak_less=tuple(peaks[1].tolist()),
            counts=tuple(counts.tolist()),
            pending=tuple(pending.tolist()),
        )

    @property
    def totals(self) -> tuple[int, int, int, int]:
        """Observations and successes so far: control, control, treatment, treatment."""
        n_control, control, n_treatment, treatment = (a + b for a, b in zip(self.counts, self.pending, strict=True))
        return n_control, control, n_treatment, treatment

    def p_value(self, null: float, alternative: Alternative) -> float:
        """Always-valid p-value, in (0, 1]: the inverse of the largest e-value so far.

        Args:
            null: one of `nulls`.
            alternative: "greater" rejects "difference <= null", "less" rejects "difference >= null".
        """
        if alternative not in ("greater", "less"):
            raise ValueError(f"alternative must be greater or less, got {alternative!r}")
        if null not in self.nulls:
            raise ValueError(f"null must be one of the nulls that were tested from the start, got {null}")
        peaks = self.peak_greater if alternative == "greater" else self.peak_less
        return math.exp(-min(peaks[self.nulls.index(null)], 700.0))

    def lower_bound(self, alpha: float) -> float:
        """The largest null below which all "difference <= null" are rejected; -1 when none is.

        It is above the true difference at any time with probability at most alpha.
        """
        rejected = np.array(self.peak_greater) >= -math.log(checks.fraction("alpha", alpha))
        count = int(np.argmin(rejected)) if not rejected.all() else len(self.nulls)
        return self.nulls[count - 1] if count else -1.0

    def upper_bound(self, alpha: float) -> float:
        """The smallest null above which all "difference >= null" are rejected; 1 when none is."""
        rejected = np.array(self.peak_less)[::-1] >= -math.log(checks.fraction("alpha", alpha))
        count = int(np.argmin(rejected)) if not rejected.all() else len(self.nulls)
        return self.nulls[-count] if count else 1.0

    def estimate(self, level: float) -> Estimate | NotEstimable:
        """The difference of the observed proportions with its interval, (1 - level)/2 on each side."""
        n_control, control, n_treatment, treatment = self.totals
        if n_control == 0 or n_treatment == 0:
            return NotEstimable("an arm has no observation")
        rates = control / n_control, treatment / n_treatment
        variance = sum(p * (1 - p) / n for p, n in zip(rates, (n_control, n_treatment), strict=True))
        return Estimate(
            value=rates[1] - rates[0],
            se=math.sqrt(variance),
            interval=self.interval(level),
            method="exact_e_process",
            anytime_valid=True,
            units=n_control + n_treatment,
            observations=n_control + n_treatment,
        )

    def interval(self, level: float) -> Interval | NotEstimable:
        """All differences that no look has rejected."""
        tail = (1 - checks.fraction("level", level)) / 2
        lower, upper = self.lower_bound(tail), self.upper_bound(tail)
        if lower > upper:
            return NotEstimable("the looks together contradict every constant difference")
        return Interval(lower, upper, level)


def _block_size(seen: int) -> int:
    return max(_SMALLEST_BLOCK, seen // _BLOCK_SHARE)


def _log_factors(nulls: NDArray[np.float64], past: NDArray[np.int64], block: NDArray[np.int64]) -> NDArray[np.float64]:
    """Logarithms of a block's factors, shape (2, nulls): against "<= null" and against ">= null"."""
    if block[0] == 0 or block[2] == 0:
        return np.zeros((2, nulls.size))
    control, treatment = ((past[i + 1] + _PRIOR) / (past[i] + 2 * _PRIOR) for i in (0, 2))
    n_control, n_treatment = float(block[0]), float(block[2])
    projected = restricted_mle(n_control * control, n_control, n_treatment * treatment, n_treatment, nulls)
    log_ratio = sum(
        hits * np.log(star / near) + (n - hits) * np.log((1 - star) / (1 - near))
        for star, near, n, hits in (
            (control, projected[0], n_control, float(block[1])),
            (treatment, projected[1], n_treatment, float(block[3])),
        )
    )
    # An alternative that is itself in the null projects onto itself: its factor is 1.
    beyond = treatment - control > nulls
    return np.where(np.stack((beyond, ~beyond)), log_ratio, 0.0)


def _check_counts(name: str, counts: tuple[int, ...]) -> None:
    if len(counts) != 4:
        raise ValueError(f"{name} must have 4 entries, got {len(counts)}")
    for value in counts:
        checks.count(name, value)
    if counts[1] > counts[0] or counts[3] > counts[2]:
        raise ValueError(f"{name} must have successes <= observations in each arm, got {list(counts)}")
