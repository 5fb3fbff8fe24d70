"""Errors under 100 looks: equal arms, losses at the margin, savings at the minimum, arrival, health."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import stats

from benchmarks.simulations.figures import Figure, Scenario, share
from benchmarks.simulations.traffic import LOOKS, answers, looks, sizes, tokens
from experiments.statistics import (
    ArmAggregates,
    ClusterAggregate,
    Design,
    Interval,
    NotEstimable,
    Outcomes,
    SequentialSRM,
)
from experiments.statistics.bounded import EmpiricalBernstein
from experiments.statistics.comparison import compare_em, compare_tokens
from experiments.statistics.design import MINIMUM_UNITS, SMALLEST_TUNING_N
from experiments.statistics.health import BOUND, label_rate_p_value
from experiments.statistics.safe_proportions import SafeDifference

PER_LOOK = 20
UNITS = LOOKS * PER_LOOK


def plan(margin: float = 0.05, min_saving: float = 0.2) -> Design:
    """Two arms, half and half, tuned to the middle of the run."""
    return Design("full", {"full": 0.5, "early": 0.5}, margin, min_saving, tuning_n=float(UNITS))


TRAFFIC = [("single", 0.0), ("few", 0.0), ("few", 0.1), ("few", 0.3), ("heavy", 0.3)]


def equal_em(seed: int, replications: int) -> list[Figure]:
    """The two-sided interval of the EM difference excludes 0 at any look."""
    rng, figures, design = np.random.default_rng(seed), [], plan()
    naive_z = float(stats.norm.isf(0.025))
    for kind, correlation in TRAFFIC:
        wrong = naive = 0
        for _ in range(replications):
            arms = []
            for _arm in range(2):
                counts = sizes(rng, UNITS, kind)
                arms.append(looks(counts, answers(rng, counts, 0.8, correlation), PER_LOOK))
            found = [compare_em(a, b, design).difference for a, b in zip(*arms, strict=True)]
            wrong += any(isinstance(item.interval, Interval) and 0.0 not in item.interval for item in found)
            naive += any(abs(item.value) > naive_z * item.se for item in found)
        name = f"{kind} completions per unit, correlation {correlation:g}"
        figures.append(share(name, wrong, replications, 0.05, "at most"))
        figures.append(share(f"{name}: fixed-sample interval looked at 100 times", naive, replications, 0.05, "shown"))
    return figures


def equal_tokens(seed: int, replications: int) -> list[Figure]:
    """The relative change excludes 0 at any look; heavy-tailed tokens."""
    rng, figures, design = np.random.default_rng(seed), [], plan()
    for kind, sigma in (("single", 1.0), ("single", 1.5), ("few", 1.0), ("heavy", 1.0)):
        wrong = 0
        for _ in range(replications):
            arms = []
            for _arm in range(2):
                counts = sizes(rng, UNITS, kind)
                arms.append(looks(counts, tokens(rng, counts, 1_000, sigma), PER_LOOK))
            for a, b in zip(*arms, strict=True):
                found = compare_tokens(a, b, design, includes_probes=True)
                interval = found if isinstance(found, NotEstimable) else found.relative_change.interval
                if isinstance(interval, Interval) and 0.0 not in interval:
                    wrong += 1
                    break
        figures.append(share(f"{kind}, lognormal sigma {sigma:g}", wrong, replications, 0.05, "at most"))
    return figures


def at_the_margin(seed: int, replications: int) -> list[Figure]:
    """True loss exactly at the margin of 5 points: ship and revert are both errors."""
    rng, figures, design = np.random.default_rng(seed), [], plan()
    for control in (0.5, 0.9, 0.99, 1.0):
        shipped = reverted = exactly_shipped = exactly_reverted = 0
        ones = np.ones(UNITS, dtype=np.int64)
        for _ in range(replications):
            right = [answers(rng, ones, p, 0.0) for p in (control, control - 0.05)]
            pairs = zip(looks(ones, right[0], PER_LOOK), looks(ones, right[1], PER_LOOK), strict=True)
            found = [compare_em(a, b, design) for a, b in pairs]
            shipped += any(item.p_non_inferiority <= design.alpha for item in found)
            reverted += any(item.p_harm <= design.harm_alpha for item in found)
            arms, marks = np.tile([0, 1], UNITS), np.stack(right, axis=1).ravel()
            exact = SafeDifference.start((-0.05,)).advance(arms, marks)
            exactly_shipped += exact.p_value(-0.05, "greater") <= design.alpha
            exactly_reverted += exact.p_value(-0.05, "less") <= design.harm_alpha
        name = f"EM {control:g} against {control - 0.05:g}"
        figures += [
            share(f"{name}: ship, asymptotic sequence", shipped, replications, 0.05, "at most"),
            share(f"{name}: ship, exact e-process", exactly_shipped, replications, 0.05, "at most"),
            share(f"{name}: revert, asymptotic sequence", reverted, replications, 0.05, "at most"),
            share(f"{name}: revert, exact e-process", exactly_reverted, replications, 0.05, "at most"),
        ]
    return figures


def control_always_right(seed: int, replications: int) -> list[Figure]:
    """The control is always right and the treatment loses exactly the margin: the asymptotic sequence's worst case."""
    rng, figures = np.random.default_rng(seed), []
    for loss, kind, correlation, per_look, tuning in (
        (0.02, "single", 0.0, 20, 1_000.0),
        (0.05, "single", 0.0, 20, 1_000.0),
        (0.02, "single", 0.0, 10, 500.0),
        (0.02, "few", 0.0, 20, 1_000.0),
        (0.05, "few", 0.3, 20, 1_000.0),
        (0.05, "heavy", 0.3, 20, 1_000.0),
    ):
        design, shipped = dataclasses.replace(plan(loss), tuning_n=tuning), 0
        for _ in range(replications):
            arms = []
            for em in (1.0, 1.0 - loss):
                counts = sizes(rng, LOOKS * per_look, kind)
                arms.append(looks(counts, answers(rng, counts, em, correlation), per_look))
            shipped += any(
                compare_em(a, b, design).p_non_inferiority <= design.alpha
                for a, b in zip(*arms, strict=True)
                if a.units >= MINIMUM_UNITS
            )
        name = f"EM 1 against {1 - loss:g}, {kind}, correlation {correlation:g}, N* = {tuning:,.0f}: ship"
        figures.append(share(name, shipped, replications, 0.05, "at most"))
    return figures


def smallest_tuning(seed: int, replications: int) -> list[Figure]:
    """The smallest N* that a design may have, looked at after every unit from the smallest sample on."""
    rng, figures = np.random.default_rng(seed), []
    design = dataclasses.replace(plan(), tuning_n=float(SMALLEST_TUNING_N))
    ones = np.ones(10 * MINIMUM_UNITS, dtype=np.int64)
    for sigma in (0.3, 0.6, 1.0):
        different = saved = 0
        for _ in range(replications):
            arms = [looks(ones, tokens(rng, ones, mean, sigma), 1)[MINIMUM_UNITS - 1 :] for mean in (1_000, 800)]
            found = [compare_tokens(a, b, design, includes_probes=True) for a, b in zip(*arms, strict=True)]
            saved += any(getattr(item, "p_saving", 1.0) <= design.alpha for item in found)
            intervals = (item.relative_change.interval for item in found if not isinstance(item, NotEstimable))
            different += any(isinstance(interval, Interval) and -0.2 not in interval for interval in intervals)
        name = f"single, lognormal sigma {sigma:g}"
        figures.append(
            share(f"{name}: the relative change leaves out the truth", different, replications, 0.05, "at most")
        )
        figures.append(share(f"{name}: a saving of the minimum is called more", saved, replications, 0.05, "at most"))
    return figures


def at_the_minimum_saving(seed: int, replications: int) -> list[Figure]:
    """True saving exactly at the minimum of 20 %: calling it shown is an error."""
    rng, figures, design = np.random.default_rng(seed), [], plan()
    for kind, sigma in (("single", 1.0), ("single", 1.5), ("few", 1.0)):
        wrong = 0
        for _ in range(replications):
            counts = [sizes(rng, UNITS, kind) for _ in range(2)]
            arms = [looks(n, tokens(rng, n, m, sigma), PER_LOOK) for n, m in zip(counts, (1_000, 800), strict=True)]
            found = (compare_tokens(a, b, design, includes_probes=True) for a, b in zip(*arms, strict=True))
            wrong += any(getattr(item, "p_saving", 1.0) <= design.alpha for item in found)
        figures.append(share(f"{kind}, lognormal sigma {sigma:g}", wrong, replications, 0.05, "at most"))
    return figures


def biased_arrival(seed: int, replications: int) -> list[Figure]:
    """Equal EM; the control thinks three times as long, and long thoughts are wrong more often."""
    rng, design, figures = np.random.default_rng(seed), plan(), []
    cohort = ended = 0
    for _ in range(replications):
        sides = [_requests(rng, slowness) for slowness in (3.0, 1.0)]
        flags = [False, False]
        for now in np.linspace(20, 400, LOOKS):
            for which, complete in enumerate((True, False)):
                if not flags[which]:
                    a, b = (_counted(side, now, sides, complete) for side in sides)
                    if a.units >= 2 and b.units >= 2:
                        interval = compare_em(a, b, design).difference.interval
                        flags[which] = isinstance(interval, Interval) and 0.0 not in interval
        cohort += flags[0]
        ended += flags[1]
    figures.append(share("requests older than the oldest in flight", cohort, replications, 0.05, "at most"))
    figures.append(share("whatever has ended (naive)", ended, replications, 0.05, "shown"))
    return figures


_Requests = tuple[np.ndarray, np.ndarray, np.ndarray]


def _requests(rng: np.random.Generator, slowness: float) -> _Requests:
    """Admission times (10 a second for 400 s), durations in seconds, and correctness of one arm."""
    admitted = np.sort(rng.uniform(0, 400, 4_000))
    effort = rng.normal(0, 1, admitted.size)
    duration = 10 * slowness * np.exp(0.8 * effort)
    correct = rng.random(admitted.size) < np.where(effort > 1, 0.4, 0.9)
    return admitted, duration, correct


def _counted(side: _Requests, now: float, sides: list[_Requests], complete: bool) -> ClusterAggregate:
    admitted, duration, correct = side
    if complete:
        flying = [a[(a <= now) & (a + d > now)] for a, d, _ in sides]
        oldest = min((float(times.min()) for times in flying if times.size), default=now)
        chosen = admitted < min(oldest, now)
    else:
        chosen = admitted + duration <= now
    return ClusterAggregate.from_values(correct[chosen].astype(np.int64))


def health_checks(seed: int, replications: int) -> list[Figure]:
    """Healthy experiments: neither the sample-ratio nor the label-rate test raises an alarm at any look."""
    rng, figures = np.random.default_rng(seed), []
    for weights in ((0.5, 0.5), (0.9, 0.1), (0.6, 0.2, 0.2)):
        alarms = loose = 0
        names = [str(i) for i in range(len(weights))]
        for _ in range(replications):
            state = SequentialSRM.start(dict(zip(names, weights, strict=True)))
            for batch in rng.multinomial(PER_LOOK * 10, weights, LOOKS):
                state = state.update(dict(zip(names, batch.tolist(), strict=True)))
            alarms += state.p_value < BOUND
            loose += state.p_value < 0.05
        shown = "/".join(f"{weight:g}" for weight in weights)
        figures.append(share(f"sample ratio {shown}, at .001", alarms, replications, BOUND, "at most"))
        figures.append(share(f"sample ratio {shown}, at .05", loose, replications, 0.05, "at most"))
    for rate in (0.3, 0.95, 1.0):
        alarms = loose = 0
        for _ in range(replications):
            arms = [np.cumsum(rng.binomial(PER_LOOK, rate, LOOKS)) for _ in range(2)]
            p = min(_label_rate_p(look, int(a), int(b)) for look, (a, b) in enumerate(zip(*arms, strict=True), 1))
            alarms += p < BOUND
            loose += p < 0.05
        figures.append(share(f"label rate {rate:g} in both arms, at .001", alarms, replications, BOUND, "at most"))
        figures.append(share(f"label rate {rate:g} in both arms, at .05", loose, replications, 0.05, "at most"))
    return figures


def _label_rate_p(look: int, *labelled: int) -> float:
    """Always-valid p-value of equal label rates after so many looks."""
    n = look * PER_LOOK
    tokens_ = ClusterAggregate(n, n, n, n, n, n)
    arms = [
        ArmAggregates(
            key=key,
            exposures=n,
            em=ClusterAggregate(count, count, 0, 0, count, 0) if count else None,
            decoded_tokens=tokens_,
            tokens_without_probes=tokens_,
            completions=n,
            labelled_completions=count,
            outcomes=Outcomes(answered=n),
        )
        for key, count in zip("ab", labelled, strict=True)
    ]
    return label_rate_p_value(arms[0], arms[1], float(UNITS))


def bounded_means(seed: int, replications: int) -> list[Figure]:
    """Empirical Bernstein: the true mean is excluded at any time."""
    rng, figures = np.random.default_rng(seed), []
    for a, b in ((0.3, 0.7), (5.0, 95.0), (50.0, 1.0)):
        misses = 0
        for _ in range(replications):
            interval = EmpiricalBernstein(0.05).advance(rng.beta(a, b, UNITS)).interval
            misses += not interval.lower <= a / (a + b) <= interval.upper
        figures.append(share(f"beta({a:g}, {b:g})", misses, replications, 0.05, "at most"))
    return figures


SCENARIOS = [
    Scenario(
        "equal_em",
        "Equal EM, 100 looks",
        "Two arms with the same EM of .8 and 2,000 units each. How often does the interval of the difference exclude 0 "
        "at any of 100 looks? Beside it, what a fixed-sample interval does when it is looked at as often.",
        equal_em,
        1_000,
    ),
    Scenario(
        "equal_tokens",
        "Equal tokens, 100 looks",
        "The same for the relative change of decoded tokens, with heavy tails and with many completions per unit.",
        equal_tokens,
        1_000,
    ),
    Scenario(
        "at_the_margin",
        "A loss of exactly the margin",
        "The boundary of the null: whatever is decided is an error of one kind. The asymptotic sequence comes nearest "
        "to its rate where the control is always right (see the next table); the exact e-process, which decides where "
        "units are single requests, does not know the difference.",
        at_the_margin,
        500,
    ),
    Scenario(
        "control_always_right",
        "A loss of exactly the margin beside a control that is always right",
        "The asymptotic sequence where its normal approximation is worst: the control's answers do not vary, and few "
        "of the treatment's do. Smoothing by four pseudo-units each way keeps its rate; with one of each the first "
        "row was 0.08.",
        control_always_right,
        1_000,
    ),
    Scenario(
        "smallest_tuning",
        "The smallest N*, looked at after every unit",
        "N* = 500, the smallest that a design may have, and a true saving of exactly the minimum of 20 %; looks after "
        "every unit from the 30th of each arm to the 300th.",
        smallest_tuning,
        200,
    ),
    Scenario(
        "at_the_minimum_saving",
        "A saving of exactly the minimum",
        "How often is a saving of 20 % called more than 20 % at any of 100 looks?",
        at_the_minimum_saving,
        1_000,
    ),
    Scenario(
        "biased_arrival",
        "Slow requests and sooner mistakes",
        "Equal EM, but the control's requests take three times as long and long thoughts are wrong more often. "
        "Counting whatever has ended compares the short thoughts of one arm with the long ones of the other; counting "
        "only requests admitted before the oldest one in flight does not.",
        biased_arrival,
        150,
    ),
    Scenario(
        "health_checks",
        "Healthy experiments",
        "Exposures that do follow the declared weights, and labels that miss as often in both arms, looked at 100 "
        "times.",
        health_checks,
        500,
    ),
    Scenario(
        "bounded_means",
        "Bounded metrics without asymptotics",
        "The empirical Bernstein sequence at every one of 2,000 observations.",
        bounded_means,
        2_000,
    ),
]
