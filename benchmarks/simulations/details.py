"""Errors under repeated looks of what is shown beside the decision, and of what reverts apart from EM."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.simulations.figures import Figure, Scenario, Wanted, share
from benchmarks.simulations.peeking import plan
from benchmarks.simulations.traffic import Ints, answers, looks, sizes, tokens
from experiments.statistics import ClusterAggregate, Design, Estimate, Interval, NotEstimable
from experiments.statistics.bounded import HedgedCapital
from experiments.statistics.columns import PAIR_COLUMNS
from experiments.statistics.comparison import compare_em
from experiments.statistics.design import MINIMUM_UNITS, SMALLEST_TUNING_N
from experiments.statistics.details import pair_report
from experiments.statistics.guardrails import Guardrail, GuardrailMetric, judge
from experiments.statistics.intervals import mean_sequence
from experiments.statistics.moments import UnitMoments
from experiments.statistics.pairs import SequentialPairs
from experiments.statistics.prediction_powered import RectifiedContrast, rectified_contrast
from experiments.statistics.ratios import ratio
from experiments.statistics.segments import harm

LOOKS = 50
_PREDICTED = ("completions", "proxy", "labelled", "correct", "labelled_proxy")


def running(columns: tuple[str, ...], rows: Ints, per_look: int) -> list[UnitMoments]:
    """Cumulative moments after each `per_look` units; `rows` has the shape (units, columns)."""
    found, total = [], UnitMoments.empty(columns)
    for start in range(0, len(rows) - per_look + 1, per_look):
        total = total + UnitMoments.from_totals(columns, rows[start : start + per_look])
        found.append(total)
    return found


def predictions(seed: int, replications: int) -> list[Figure]:
    """Prediction-powered estimates at a loss of exactly the margin: few labels among many predictions."""
    rng, figures = np.random.default_rng(seed), []
    for control, labelled, tuning in (
        (0.95, 0.01, 5_000.0),
        (0.9, 0.05, 5_000.0),
        (0.99, 0.1, 5_000.0),
        (0.95, 0.1, float(SMALLEST_TUNING_N)),
    ):
        design = Design("full", {"full": 0.5, "early": 0.5}, 0.05, 0.2, tuning_n=tuning)
        wrong = 0
        for _ in range(replications):
            sides = [running(_PREDICTED, _judged(rng, em, labelled), 200) for em in (control, control - 0.05)]
            found = (rectified_contrast(a, b, design) for a, b in zip(*sides, strict=True))
            wrong += any(
                isinstance(item, RectifiedContrast) and item.p_non_inferiority <= design.alpha for item in found
            )
        name = f"EM {control:g} against {control - 0.05:g}, {labelled:.0%} labelled, N* = {tuning:,.0f}"
        figures.append(share(name, wrong, replications, 0.05, "at most"))
    return figures


def _judged(rng: np.random.Generator, em: float, labelled: float) -> Ints:
    """10,000 requests, a judge that is right about 90 % of them, and labels on a random share."""
    n = 10_000
    right = (rng.random(n) < em).astype(np.int64)
    judged = np.where(rng.random(n) < 0.9, right, 1 - right)
    drawn = (rng.random(n) < labelled).astype(np.int64)
    return np.stack((np.ones(n, dtype=np.int64), 100 * judged, drawn, drawn * right, 100 * drawn * judged), axis=1)


def partly_graded_pairs(seed: int, replications: int) -> list[Figure]:
    """Shadow pairs at a loss of exactly the margin, of which few (or all) are graded."""
    rng, figures = np.random.default_rng(seed), []
    cases = ((0.01, 0.02, "single"), (0.1, 0.02, "single"), (1.0, 0.02, "single"), (1.0, 0.05, "single"))
    for graded, margin, kind in (*cases, (0.3, 0.05, "few"), (0.1, 0.05, "heavy")):
        for tuning in (5_000.0, float(SMALLEST_TUNING_N)) if graded == 1 else (5_000.0,):
            design = Design("full", {"full": 0.5, "early": 0.5}, margin, 0.2, tuning_n=tuning)
            wrong = 0
            for _ in range(replications):
                reports = (pair_report(m, design) for m in running(PAIR_COLUMNS, _pairs(rng, graded, margin, kind), 60))
                found = (getattr(report, "sequential", None) for report in reports)
                wrong += any(isinstance(item, SequentialPairs) and item.p_non_inferiority <= 0.05 for item in found)
            name = f"{kind}, {graded:.0%} graded, all discordance is loss, margin {margin:g}, N* = {tuning:,.0f}"
            figures.append(share(name, wrong, replications, 0.05, "at most"))
    return figures


def _pairs(rng: np.random.Generator, graded: float, lost: float, kind: str) -> Ints:
    """3,000 units' pairs; where a graded one is discordant, the treatment is wrong."""
    counts = sizes(rng, 3_000, kind)
    known = rng.binomial(counts, graded)
    worse = rng.binomial(known, lost)
    zeros = np.zeros_like(counts)
    spent = 1_000 * counts
    return np.stack((counts, worse, known, known - worse, worse, zeros, spent, spent - 100 * counts), axis=1)


def segment_harm(seed: int, replications: int) -> list[Figure]:
    """Three declared segments whose loss is exactly the margin: harm in any of them is false."""
    rng, figures = np.random.default_rng(seed), []
    names = ("easy", "hard", "rare")
    design = Design("full", {"full": 0.5, "early": 0.5}, 0.05, 0.2, tuning_n=2_000.0, segments=names)
    for kind, correlation in (("single", 0.0), ("few", 0.3)):
        harmed = 0
        for _ in range(replications):
            arms: list[dict[str, list[ClusterAggregate]]] = []
            for loss in (0.0, 0.05):
                arm = {}
                for name, em, step in zip(names, (0.95, 0.6, 0.9), (20, 10, 4), strict=True):
                    counts = sizes(rng, LOOKS * step, kind)
                    arm[name] = looks(counts, answers(rng, counts, em - loss, correlation), step)
                arms.append(arm)
            at_look = ([{name: arm[name][i] for name in names} for arm in arms] for i in range(LOOKS))
            harmed += any(item.harmed for a, b in at_look for item in harm("early", a, b, design))
        name = f"{kind}, correlation {correlation:g}: harm in any segment"
        figures.append(share(name, harmed, replications, 0.05 * 3 / 4, "at most"))
    return figures


def disagreement(seed: int, replications: int) -> list[Figure]:
    """Disagreement exactly at its bound, looked at from the first two units on: any breach is false."""
    rng, figures = np.random.default_rng(seed), []
    for bound in (0.01, 0.1, 0.3):
        rail = Guardrail(GuardrailMetric.DISAGREEMENT, bound)
        for kind, correlation in (("single", 0.0), ("few", 0.3), ("heavy", 0.3)):
            for tuning in (2_000.0, float(SMALLEST_TUNING_N)):
                breached = 0
                for _ in range(replications):
                    counts = sizes(rng, 400, kind)
                    found = looks(counts, answers(rng, counts, bound, correlation), 2)
                    breached += any(judge(rail, "early", item, None, 0.05, tuning).breached for item in found)
                name = f"bound {bound:g}, {kind}, correlation {correlation:g}, N* = {tuning:,.0f}"
                figures.append(share(name, breached, replications, 0.05, "at most"))
    return figures


def log_sequences(seed: int, replications: int) -> list[Figure]:
    """One arm's mean tokens and tokens per correct answer: the truth is left out at any of 200 looks."""
    rng, figures = np.random.default_rng(seed), []
    for tuning in (2_500.0, SMALLEST_TUNING_N / 2):
        for sigma in (0.6, 1.0, 1.5):
            means = ratios = 0
            for _ in range(replications):
                means += _mean_left_out(rng, sigma, tuning)
                ratios += _ratio_left_out(rng, sigma, tuning)
            # Light tails and the default N* are promised; the rest shows where the approximation ends.
            wanted: Wanted = "at most" if sigma < 1.5 and tuning == 2_500 else "shown"
            name = f"lognormal sigma {sigma:g}, N* = {tuning:,.0f} of one arm"
            figures.append(share(f"mean tokens, {name}", means, replications, 0.05, wanted))
            figures.append(share(f"tokens per correct answer, {name}", ratios, replications, 0.05, wanted))
    return figures


def _mean_left_out(rng: np.random.Generator, sigma: float, tuning: float) -> bool:
    ones = np.ones(2_000, dtype=np.int64)
    found = looks(ones, tokens(rng, ones, 1_000, sigma), 10)
    return any(_leaves_out(mean_sequence(item, 0.95, tuning), 1_000) for item in found)


def _ratio_left_out(rng: np.random.Generator, sigma: float, tuning: float) -> bool:
    ones = np.ones(2_000, dtype=np.int64)
    rows = np.stack((tokens(rng, ones, 1_000, sigma), answers(rng, ones, 0.8, 0.0)), axis=1)
    found = running(("tokens", "correct"), rows, 10)
    return any(_leaves_out(ratio(item, ("tokens",), ("correct",), 0.95, tuning), 1_250) for item in found)


def _leaves_out(found: Estimate | NotEstimable, truth: float) -> bool:
    interval = getattr(found, "interval", None)
    return isinstance(interval, Interval) and truth not in interval


def betting(seed: int, replications: int) -> list[Figure]:
    """The hedged capital's interval leaves the true mean out at any of 1,000 observations."""
    rng, figures = np.random.default_rng(seed), []
    for a, b in ((0.3, 0.7), (5.0, 95.0), (50.0, 1.0)):
        misses = 0
        for _ in range(replications):
            interval = HedgedCapital(0.05, grid=100).advance(rng.beta(a, b, 1_000)).interval
            misses += not interval.lower <= a / (a + b) <= interval.upper
        figures.append(share(f"beta({a:g}, {b:g})", misses, replications, 0.05, "at most"))
    return figures


def late_labels(seed: int, replications: int) -> list[Figure]:
    """Equal EM; one arm's right answers are labelled later than its wrong ones."""
    rng, figures, design = np.random.default_rng(seed), [], plan()
    # Seconds until a label; the window is 60.
    for name, slowest, wanted in (
        ("right answers labelled up to 55 s later, within the window of 60 s", 55.0, "at most"),
        (
            "right answers labelled up to 600 s later, beyond the window (a look that counts what is there)",
            600.0,
            "shown",
        ),
    ):
        wrong = 0
        for _ in range(replications):
            sides = [_labelled(rng, late) for late in (0.0, slowest)]
            for now in np.linspace(80, 400, LOOKS):
                a, b = (_counted(side, float(now)) for side in sides)
                if min(a.units, b.units) >= MINIMUM_UNITS:
                    interval = compare_em(a, b, design).difference.interval
                    if isinstance(interval, Interval) and 0.0 not in interval:
                        wrong += 1
                        break
        figures.append(share(name, wrong, replications, 0.05, wanted))  # type: ignore[arg-type]
    return figures


_Labels = tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]


def _labelled(rng: np.random.Generator, slowest: float) -> _Labels:
    """Admission times (10 a second for 400 s), correctness, and when each label comes."""
    admitted = np.sort(rng.uniform(0, 400, 4_000))
    correct = rng.random(admitted.size) < 0.8
    delay = 5 * rng.random(admitted.size) + np.where(correct, slowest * rng.random(admitted.size), 0.0)
    return admitted, correct, admitted + delay


def _counted(side: _Labels, now: float) -> ClusterAggregate:
    """The labelled ones among the requests at least as old as the label window of 60 s."""
    admitted, correct, known = side
    return ClusterAggregate.from_values(correct[(admitted <= now - 60) & (known <= now)].astype(np.int64))


SCENARIOS = [
    Scenario(
        "predictions",
        "Prediction-powered estimates at a loss of exactly the margin",
        "10,000 requests an arm, a judge that is right about 90 % of them, labels on a random share; 50 looks. "
        "Calling the loss smaller than the margin is an error.",
        predictions,
        200,
    ),
    Scenario(
        "partly_graded_pairs",
        "Partly graded pairs at a loss of exactly the margin",
        "3,000 units' shadow pairs of which some are graded; whatever is discordant is a loss, which is the hardest "
        "case. 50 looks.",
        partly_graded_pairs,
        200,
    ),
    Scenario(
        "segment_harm",
        "Harm in declared segments",
        "Three segments with a loss of exactly the margin, 50 looks. Four tests share the false-revert probability "
        "(the fourth is EM over all), so that three may use three quarters of it.",
        segment_harm,
        400,
    ),
    Scenario(
        "disagreement",
        "Disagreement with the full answer exactly at its bound",
        "A guardrail has no minimum sample: 200 looks from 2 units on.",
        disagreement,
        300,
    ),
    Scenario(
        "log_sequences",
        "One arm's mean tokens and tokens per correct answer, 200 looks",
        "These decide nothing. The sequence on the log scale is asymptotic, from 30 units on: with heavy tails "
        "(sigma 1.5) or an N* far below the default it misses the mean more often than it says, because the sample's "
        "mean is too small before the first long request has come.",
        log_sequences,
        300,
    ),
    Scenario(
        "betting",
        "Bounded metrics by betting",
        "The hedged capital at every one of 1,000 observations.",
        betting,
        300,
    ),
    Scenario(
        "late_labels",
        "Wrong answers labelled sooner",
        "Equal EM of .8; one arm's labels come within 5 s, the other arm's right answers are labelled later. A look "
        "counts requests that are at least as old as the label window, so that within it the delay does not matter. "
        "Beyond it the labels that are missing are right ones: no method over the labels that came can know, and the "
        "check of label rates by arm blocks the ship.",
        late_labels,
        200,
    ),
]
