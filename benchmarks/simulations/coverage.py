"""Coverage of the intervals at nominal 95 %."""

from __future__ import annotations

from collections import Counter
from functools import cache
from statistics import NormalDist

import numpy as np
from scipy import stats

from benchmarks.simulations.figures import Figure, Scenario, Wanted, share
from benchmarks.simulations.peeking import plan
from experiments.statistics import ClusterAggregate, Estimate, Interval
from experiments.statistics.comparison import compare_em
from experiments.statistics.cuped import Adjusted, cuped_difference
from experiments.statistics.intervals import mean_sequence
from experiments.statistics.moments import UnitMoments
from experiments.statistics.proportions import wilson_interval
from experiments.statistics.quantiles import QuantileSketch, quantile_estimate
from experiments.statistics.ratios import RatioContrast, ratio_contrast
from experiments.statistics.relative import relative_change
from experiments.statistics.two_proportions import Counts, difference

LEVEL = 0.95
DEFAULT = 0.94
SAMPLE_SIZES = (50, 200, 1_000)


def _single(x: int, n: int) -> ClusterAggregate:
    return ClusterAggregate(n, n, x, x, n, x)


def one_proportion(seed: int, replications: int) -> list[Figure]:
    """Wilson's interval of one arm's EM."""
    rng, figures = np.random.default_rng(seed), []
    for p in (0.01, 0.05, 0.5, 0.95, 0.99):
        hits = total = 0
        for n in (50, 100, 200, 500, 1_000, 2_000):
            for x, count in zip(*np.unique(rng.binomial(n, p, replications), return_counts=True), strict=True):
                interval = wilson_interval(_single(int(x), n), LEVEL).interval  # type: ignore[union-attr]
                hits += int(count) * (isinstance(interval, Interval) and p in interval)
                total += int(count)
        figures.append(share(f"Wilson, EM {p:g}, n from 50 to 2,000", hits, total, DEFAULT, "at least"))
    return figures


@cache
def _bounds(method: str, a: int, n: int, b: int) -> tuple[float, float]:
    if method == "sequence":
        interval = compare_em(_single(a, n), _single(b, n), plan()).difference.interval
    else:
        interval = difference(Counts(a, n, b, n), LEVEL, method).interval  # type: ignore[arg-type]
    assert isinstance(interval, Interval)
    return interval.lower, interval.upper


def two_proportions(seed: int, replications: int) -> list[Figure]:
    """Intervals of the EM difference of two arms."""
    rng, figures = np.random.default_rng(seed), []
    for method in ("newcombe", "miettinen_nurminen", "agresti_caffo", "sequence"):
        for p, q in ((0.5, 0.5), (0.9, 0.85), (0.99, 0.97), (1.0, 0.99), (0.02, 0.01)):
            hits = total = 0
            for n in (50, 200, 1_000):
                pairs = np.stack((rng.binomial(n, p, replications), rng.binomial(n, q, replications)), axis=1)
                for (a, b), count in zip(*np.unique(pairs, axis=0, return_counts=True), strict=True):
                    lower, upper = _bounds(method, int(a), n, int(b))
                    hits += int(count) * (lower - 1e-12 <= q - p <= upper + 1e-12)
                    total += int(count)
            name = f"{method.replace('_', ' ')}, {p:g} against {q:g}, n from 50 to 1,000"
            figures.append(share(name, hits, total, DEFAULT, "at least"))
    return figures


def relative_changes(seed: int, replications: int) -> list[Figure]:
    """Relative change of heavy-tailed tokens: Fieller by default, delta and log-delta beside it."""
    rng, figures = np.random.default_rng(seed), []
    for n in SAMPLE_SIZES:
        hits = {"fieller": 0, "delta": 0, "log_delta": 0}
        for _ in range(replications):
            a, b = rng.lognormal(7, 1.5, (2, n))
            control, treatment = ClusterAggregate.from_values(a), ClusterAggregate.from_values(0.7 * b)
            for method in ("fieller", "delta", "log_delta"):
                found = relative_change(control, treatment, LEVEL, method)
                interval = getattr(found, "interval", None)
                # Without a bounded interval nothing is excluded.
                hits[method] += not isinstance(interval, Interval) or -0.3 in interval
        for method, count in hits.items():
            wanted: Wanted = "at least" if method == "fieller" else "shown"
            figures.append(share(f"{method.replace('_', ' ')}, n = {n}", count, replications, DEFAULT, wanted))
    return figures


def token_means(seed: int, replications: int) -> list[Figure]:
    """Mean tokens of one arm: the log-scale sequence by default, Student's t beside it."""
    rng, figures = np.random.default_rng(seed), []
    for sigma in (0.6, 1.0, 1.5):
        truth = float(np.exp(7 + sigma**2 / 2))
        for n in SAMPLE_SIZES:
            student = sequence = 0
            for _ in range(replications):
                arm = ClusterAggregate.from_values(rng.lognormal(7, sigma, n))
                half = float(stats.t.isf((1 - LEVEL) / 2, n - 1)) * float(np.sqrt(arm.variance_of_mean))
                student += abs(arm.mean - truth) <= half
                found = mean_sequence(arm, LEVEL, 2_500)
                sequence += isinstance(found, Estimate) and (
                    not isinstance(found.interval, Interval) or truth in found.interval
                )
            name = f"sigma {sigma}, n = {n}"
            figures.append(share(f"log-scale sequence, {name}", sequence, replications, DEFAULT, "at least"))
            figures.append(share(f"Student's t, {name}", student, replications, DEFAULT, "shown"))
    return figures


def shown_beside(seed: int, replications: int) -> list[Figure]:
    """What the details show of heavy-tailed tokens: CUPED, tokens per correct answer, quantiles."""
    rng, figures = np.random.default_rng(seed), []
    normal = NormalDist()
    mean = float(np.exp(7 + 1.5**2 / 2))
    for n in SAMPLE_SIZES:
        hits: Counter[str] = Counter()
        total: Counter[str] = Counter()

        def note(what: str, interval: object, truth: float, hits: Counter[str], total: Counter[str]) -> None:
            # "Not estimable" claims nothing: it counts as neither.
            if isinstance(interval, Interval):
                total[what] += 1
                hits[what] += truth in interval

        for _ in range(replications):
            length, noise = rng.lognormal(3, 0.5, (2, n)), rng.normal(0, 1, (2, n))
            shared = (np.log(length) - 3) / 0.5
            logs = 7 + 1.5 * (0.6 * shared + 0.8 * noise)
            right = rng.random((2, n)) < 0.9
            sides = [
                UnitMoments.from_totals(("t", "n", "x", "c"), np.stack([t, np.ones(n), x, c], axis=1))
                for t, x, c in zip(np.exp(logs) * np.array([[1.0], [0.7]]), length, right, strict=True)
            ]
            adjusted = cuped_difference(sides[0], sides[1], ("t",), "n", "x", LEVEL)
            if isinstance(adjusted, Adjusted):
                note("CUPED difference", adjusted.difference.interval, -0.3 * mean, hits, total)
            contrast = ratio_contrast(sides[0], sides[1], ("t",), ("c",), LEVEL, 5_000)
            if isinstance(contrast, RatioContrast):
                note("tokens per correct answer, one arm", contrast.control.interval, mean / 0.9, hits, total)
                note("the same, difference", contrast.difference.interval, -0.3 * mean / 0.9, hits, total)
                if isinstance(contrast.relative_change, Estimate):
                    note("the same, relative change", contrast.relative_change.interval, -0.3, hits, total)
            sketch = QuantileSketch.empty().update(np.exp(logs[0]))
            for q in (0.5, 0.9, 0.99):
                found = quantile_estimate(sketch, q, LEVEL)
                truth = float(np.exp(7 + 1.5 * normal.inv_cdf(q)))
                note(f"p{round(100 * q)}", getattr(found, "interval", None), truth, hits, total)
        figures += [share(f"{what}, n = {n}", hits[what], total[what], DEFAULT, "at least") for what in total]
    return figures


SCENARIOS = [
    Scenario(
        "one_proportion",
        "Coverage: EM of one arm",
        "Wilson's interval, which the arms' table shows. Averaged over sample sizes: at one p and n the coverage of "
        "any interval for a proportion jumps up and down.",
        one_proportion,
        4_000,
    ),
    Scenario(
        "two_proportions",
        "Coverage: EM difference",
        "Fixed-sample intervals near 0 and 1, and the confidence sequence looked at once (it covers far more than 95 % "
        "then, because it may be looked at any time).",
        two_proportions,
        4_000,
    ),
    Scenario(
        "relative_changes",
        "Coverage: relative change of heavy-tailed tokens",
        "Lognormal tokens with sigma 1.5, a true change of -30 %. Fieller is the default; delta and log-delta cover "
        "less than they say in small samples.",
        relative_changes,
        2_000,
    ),
    Scenario(
        "token_means",
        "Coverage: mean tokens of one arm",
        "Lognormal tokens. The arms' table shows the sequence on the log scale, looked at once here (it may be "
        "looked at any time, so it covers more than 95 % where tails are light); Student's t covers less than it says "
        "where they are heavy.",
        token_means,
        2_000,
    ),
    Scenario(
        "shown_beside",
        "Coverage: what the details show of heavy-tailed tokens",
        "Lognormal tokens with sigma 1.5, correlated .6 (log scale) with the first prompt's length; a true change of "
        "-30 %, 90 % correct. Replications without an interval count as neither.",
        shown_beside,
        2_000,
    ),
]
