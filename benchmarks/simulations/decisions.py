"""Whole decisions: the joint verdict at the corners of its null, false reverts, power and sample sizes."""

from __future__ import annotations

import math

import numpy as np

from benchmarks.simulations.figures import Figure, Scenario, share
from benchmarks.simulations.traffic import answers, looks, sizes, tokens
from experiments.statistics import ArmAggregates, ClusterAggregate, Decision, Design, LookInputs, Outcomes, analyse
from experiments.statistics.comparison import compare_em
from experiments.statistics.design import MINIMUM_UNITS
from experiments.statistics.guardrails import Guardrail, GuardrailMetric, judge
from experiments.statistics.pairs import SequentialPairs, sequential_pairs
from experiments.statistics.power import EMQuestion, SampleSize, paired_sample_size, sample_size
from experiments.statistics.safe_proportions import SafeDifference
from experiments.statistics.sequential_power import (
    sequential_paired_sample_size,
    sequential_sample_size,
    simulate_stopping,
)

LOOKS, PER_LOOK = 50, 40
UNITS = LOOKS * PER_LOOK


def _design(**changes: object) -> Design:
    weights = {"full": 1 / 3, "a": 1 / 3, "b": 1 / 3}
    values = {"margin": 0.05, "min_saving": 0.2, "tuning_n": float(UNITS)} | changes
    return Design("full", weights, **values)  # type: ignore[arg-type]


def guardrail_clusters(seed: int, replications: int) -> list[Figure]:
    """Empty answers exactly at their bound where units have several requests: any breach is false."""
    rng, figures = np.random.default_rng(seed), []
    rail = Guardrail(GuardrailMetric.EMPTY, 0.02)
    for kind, correlation in (("few", 0.1), ("few", 0.3), ("heavy", 0.1), ("heavy", 0.3)):
        for base in (0.0, 0.05):
            breached = 0
            for _ in range(replications):
                sides = []
                for share_empty in (base, base + 0.02):
                    counts = sizes(rng, UNITS, kind)
                    sides.append(looks(counts, answers(rng, counts, share_empty, correlation), PER_LOOK))
                breached += any(
                    judge(rail, "a", treated, control, 0.05, float(UNITS)).breached
                    for control, treated in zip(*sides, strict=True)
                )
            users = "1 to 9 requests a unit" if kind == "few" else "heavy users"
            name = f"{users}, correlation {correlation}, {base:.0%} empty in the control"
            figures.append(share(name, breached, replications, 0.05, "at most"))
    return figures


def _arms(rng: np.random.Generator, key: str, em: float, mean: float, empty: float = 0.0) -> list[ArmAggregates]:
    ones = np.ones(UNITS, dtype=np.int64)
    right = looks(ones, answers(rng, ones, em, 0.0), PER_LOOK)
    spent = looks(ones, tokens(rng, ones, mean, 1.0), PER_LOOK)
    blank = looks(ones, answers(rng, ones, empty, 0.0), PER_LOOK)
    return [
        ArmAggregates(
            key=key,
            exposures=e.units,
            em=e,
            decoded_tokens=t,
            tokens_without_probes=t,
            completions=e.units,
            labelled_completions=e.units,
            outcomes=Outcomes(answered=e.units),
            watched={GuardrailMetric.EMPTY: b},
        )
        for e, t, b in zip(right, spent, blank, strict=True)
    ]


def joint_null(seed: int, replications: int) -> list[Figure]:
    """Two treatments at the corners of the joint null, through the real verdict."""
    rng, figures, design = np.random.default_rng(seed), [], _design()
    corners = {
        "EM at the margin, saving well beyond the minimum": (0.85, 500.0),
        "EM equal, saving at the minimum": (0.9, 800.0),
        "both at their bounds": (0.85, 800.0),
    }
    for name, (em, mean) in corners.items():
        shipped = 0
        for _ in range(replications):
            sides = [_arms(rng, "full", 0.9, 1_000)] + [_arms(rng, key, em, mean) for key in "ab"]
            shipped += any(
                analyse(LookInputs(design, arms)).verdict.decision is Decision.SHIP for arms in zip(*sides, strict=True)
            )
        figures.append(share(f"{name}: any treatment shipped", shipped, replications, 0.05, "at most"))
    return figures


def false_reverts(seed: int, replications: int) -> list[Figure]:
    """One treatment whose EM and empty answers are exactly at their bounds: any revert is false."""
    rng, figures = np.random.default_rng(seed), []
    rail = Guardrail(GuardrailMetric.EMPTY, 0.02)
    for name, em, empty in (
        ("EM at the margin, no guardrail", 0.85, None),
        ("EM at the margin and empty answers at their bound of 2 points", 0.85, 0.02),
    ):
        weights = {"full": 0.5, "a": 0.5}
        rails = () if empty is None else (rail,)
        design = Design("full", weights, 0.05, 0.2, tuning_n=float(UNITS), guardrails=rails)
        reverted = 0
        for _ in range(replications):
            sides = [_arms(rng, "full", 0.9, 1_000), _arms(rng, "a", em, 500, empty or 0.0)]
            reverted += any(
                analyse(LookInputs(design, arms)).verdict.decision is Decision.REVERT
                for arms in zip(*sides, strict=True)
            )
        figures.append(share(name, reverted, replications, 0.05, "at most"))
    return figures


def time_to_decision(seed: int, replications: int) -> list[Figure]:
    """Units of the treatment until "EM is within the margin" is shown, against the fixed sample of the same power."""
    question = EMQuestion(0.95, 0.95, 0.05)
    fixed = sample_size(question, power=0.8)
    most = sequential_sample_size(question, power=0.8)
    assert isinstance(fixed, SampleSize)
    assert isinstance(most, SampleSize)
    stopping = simulate_stopping(question, most.treatment, most.total, seed, replications=4 * replications)
    runs = stopping.replications
    asymptotic = [
        Figure("fixed sample, units for 80 % power", fixed.unrounded, 0.0, None, "shown", 1),
        Figure("asymptotic sequence, maximum units", most.unrounded, 0.0, None, "shown", 1),
        share("asymptotic sequence, power", round(stopping.power * runs), runs, 0.8, "at least"),
        Figure("asymptotic sequence, mean units", stopping.mean_units, stopping.mean_units_error, None, "shown", runs),
    ]
    return asymptotic + _smoothed_time(seed, replications, most) + _exact_time(seed, replications, most.treatment)


def _smoothed_time(seed: int, replications: int, most: SampleSize) -> list[Figure]:
    """The same with real answers, whose variance is estimated and smoothed."""
    rng, stopped, found = np.random.default_rng(seed), [], 0
    step = 6
    design = Design("full", {"full": 0.5, "a": 0.5}, 0.05, 0.2, tuning_n=float(most.total))
    ones = np.ones(most.treatment // step * step, dtype=np.int64)
    for _ in range(replications):
        sides = [looks(ones, answers(rng, ones, 0.95, 0.0), step) for _ in range(2)]
        units = most.treatment
        for control, treated in zip(*sides, strict=True):
            if treated.units >= MINIMUM_UNITS and compare_em(control, treated, design).p_non_inferiority <= 0.05:
                units, found = treated.units, found + 1
                break
        stopped.append(units)
    error = float(np.std(stopped, ddof=1)) / math.sqrt(replications)
    return [
        share("asymptotic sequence, power with smoothed variances", found, replications, 0.8, "at least"),
        Figure(
            "asymptotic sequence, mean units with them", float(np.mean(stopped)), error, None, "shown", replications
        ),
    ]


def _exact_time(seed: int, replications: int, most: int) -> list[Figure]:
    rng, stopped = np.random.default_rng(seed), []
    found = 0
    for _ in range(replications):
        state, units = SafeDifference.start((-0.05,)), 0
        while units < 2 * most:
            step = max(10, units // 20)
            state = state.advance(np.tile([0, 1], step), rng.random(2 * step) < 0.95)
            units += step
            if state.p_value(-0.05, "greater") <= 0.05:
                break
        found += state.p_value(-0.05, "greater") <= 0.05
        stopped.append(units)
    error = float(np.std(stopped, ddof=1)) / math.sqrt(replications)
    return [
        share("exact e-process, power by twice that maximum", found, replications, None, "shown"),
        Figure("exact e-process, mean units", float(np.mean(stopped)), error, None, "shown", replications),
    ]


def pairs_to_decision(seed: int, replications: int) -> list[Figure]:
    """The same question on pairs that share the thought, with 6.6 % discordance and a margin of 2 points."""
    rng, stopped, found = np.random.default_rng(seed), [], 0
    fixed = paired_sample_size(0.066, 0.02)
    independent = sample_size(EMQuestion(0.72, 0.72, 0.02))
    assert isinstance(fixed, SampleSize)
    assert isinstance(independent, SampleSize)
    longest = sequential_paired_sample_size(0.066, 0.02)
    assert isinstance(longest, SampleSize)
    step = 40
    most = -(-longest.treatment // step) * step
    for _ in range(replications):
        marks = rng.choice([-1, 0, 1], most, p=[0.033, 0.934, 0.033])
        ends = np.arange(step, most + 1, step)
        sums, squares = np.cumsum(marks)[ends - 1], np.cumsum(marks**2)[ends - 1]
        units = most
        for n, s, s2 in zip(ends.tolist(), sums.tolist(), squares.tolist(), strict=True):
            look = sequential_pairs(ClusterAggregate(n, n, s, s2, n, s), 0.02, 0.05, 0.95, longest.treatment)
            if isinstance(look, SequentialPairs) and look.p_non_inferiority <= 0.05:
                units, found = n, found + 1
                break
        stopped.append(units)
    error = float(np.std(stopped, ddof=1)) / math.sqrt(replications)
    return [
        Figure(
            "two independent arms at EM .72, fixed sample, units per arm", independent.unrounded, 0.0, None, "shown", 1
        ),
        Figure("pairs, fixed sample for 80 % power", fixed.unrounded, 0.0, None, "shown", 1),
        Figure("pairs, sequence: maximum for 80 % power", longest.unrounded, 0.0, None, "shown", 1),
        share("pairs, sequence: power by that maximum", found, replications, 0.8, "at least"),
        Figure("pairs, sequence: mean pairs", float(np.mean(stopped)), error, None, "shown", replications),
    ]


SCENARIOS = [
    Scenario(
        "joint_null",
        "The joint verdict at the corners of its null",
        "A control (EM .9, 1,000 tokens) and two treatments that must not be shipped, 50 looks of the real analysis "
        "with Holm over the treatments.",
        joint_null,
        300,
    ),
    Scenario(
        "false_reverts",
        "False reverts",
        "A treatment whose true loss is exactly the margin, alone and with a guardrail exactly at its bound; the "
        "declared false-revert probability of 5 % is split over both.",
        false_reverts,
        400,
    ),
    Scenario(
        "guardrail_clusters",
        "False breaches where units have several requests",
        "Empty answers exactly at their bound of 2 points above the control, beta-binomial within units; 50 looks "
        "of one guardrail at 5 %.",
        guardrail_clusters,
        400,
    ),
    Scenario(
        "time_to_decision",
        "Units until a decision: two arms",
        "Equal EM of .95, margin 5 points, one-sided 5 %. Looking all the time costs a larger maximum and stops "
        "earlier on average.",
        time_to_decision,
        500,
    ),
    Scenario(
        "pairs_to_decision",
        "Units until a decision: pairs",
        "Shadow runs share the thought, so few pairs are discordant, and few pairs decide.",
        pairs_to_decision,
        500,
    ),
]
