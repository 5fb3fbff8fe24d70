"""Coverage of fixed-sample intervals at nominal 95 %."""

from __future__ import annotations

from functools import cache

import numpy as np

from benchmarks.simulations.figures import Figure, Scenario, share
from benchmarks.simulations.peeking import plan
from experiments.statistics import ClusterAggregate, Interval
from experiments.statistics.comparison import compare_em
from experiments.statistics.intervals import mean_interval
from experiments.statistics.proportions import wilson_interval
from experiments.statistics.relative import relative_change
from experiments.statistics.two_proportions import Counts, difference

LEVEL = 0.95
DEFAULT = 0.94


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
    for n in (50, 200, 1_000):
        hits = {"fieller": 0, "delta": 0, "log_delta": 0, "t": 0}
        for _ in range(replications):
            a, b = rng.lognormal(7, 1.5, (2, n))
            control, treatment = ClusterAggregate.from_values(a), ClusterAggregate.from_values(0.7 * b)
            for method in ("fieller", "delta", "log_delta"):
                found = relative_change(control, treatment, LEVEL, method)
                interval = getattr(found, "interval", None)
                # Without a bounded interval nothing is excluded.
                hits[method] += not isinstance(interval, Interval) or -0.3 in interval
            mean = mean_interval(control, LEVEL).interval  # type: ignore[union-attr]
            hits["t"] += isinstance(mean, Interval) and float(np.exp(7 + 1.5**2 / 2)) in mean
        for method, count in hits.items():
            wanted = "at least" if method == "fieller" else "shown"
            name = "t interval of one arm's mean" if method == "t" else method.replace("_", " ")
            figures.append(share(f"{name}, n = {n}", count, replications, DEFAULT, wanted))  # type: ignore[arg-type]
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
        "less than they say in small samples, and so does a t interval of one arm's mean, which is shown and decides "
        "nothing.",
        relative_changes,
        2_000,
    ),
]
