"""How many units an experiment needs when it is looked at all the time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from experiments.statistics import checks, sequential
from experiments.statistics.power import (
    EMQuestion,
    Question,
    SampleSize,
    TokenQuestion,
    paired_sample_size,
    require_power,
    sample_size,
)
from experiments.statistics.results import NotEstimable


@dataclass(frozen=True, slots=True)
class Stopping:
    """When simulated experiments stopped.

    Attributes:
        power: share that answered the question by the maximum.
        power_error: its Monte Carlo standard error.
        mean_units: mean units of the treatment when it stopped (at the maximum, where it did not).
        mean_units_error: its Monte Carlo standard error.
        fixed_units: what a fixed sample needs for the same power at the same alpha; 0 where that power is not above
            alpha.
        replications: simulated experiments.
    """

    power: float
    power_error: float
    mean_units: float
    mean_units_error: float
    fixed_units: float
    replications: int


def sequential_power_at(
    question: Question, n_treatment: float, tuning_n: float, alpha: float = 0.05, ratio: float = 1.0
) -> float:
    """Probability that the sequence's bound excludes the null at this very sample: a lower bound of the power by then.

    Args:
        question: of EM or of tokens.
        n_treatment: units of the treatment, > 0.
        tuning_n: N*, units of both arms.
        alpha: one-sided, in (0, .5).
        ratio: control units for each unit of the treatment, > 0.
    """
    n = checks.positive("n_treatment", n_treatment) * (1 + checks.positive("ratio", ratio))
    se = math.sqrt(question.variance(ratio) / n_treatment)
    critical = sequential.multiplier(n, tuning_n, alpha, one_sided=True)
    return float(stats.norm.cdf(question.distance / se - critical))


def sequential_sample_size(
    question: Question, alpha: float = 0.05, power: float = 0.8, ratio: float = 1.0, tuning_n: float | None = None
) -> SampleSize | NotEstimable:
    """Units by which the sequence excludes the null with the wanted power (at the latest).

    Args:
        question: of EM or of tokens.
        alpha: one-sided, in (0, .5).
        power: in (alpha, 1).
        ratio: control units for each unit of the treatment, > 0.
        tuning_n: N*, units of both arms; None: the sample itself, which is about the best choice.
    """
    fixed = sample_size(question, alpha, power, ratio)
    if isinstance(fixed, NotEstimable):
        return fixed

    def power_by(n: float) -> float:
        tuned = n * (1 + ratio) if tuning_n is None else tuning_n
        return sequential_power_at(question, n, tuned, alpha, ratio)

    n = _smallest(power_by, power, fixed.unrounded)
    return SampleSize(math.ceil(n * ratio), math.ceil(n), n, power, alpha, "asymptotic_confidence_sequence")


def _smallest(power_by: Callable[[float], float], power: float, fixed: float) -> float:
    """The sample with that power, which is above what a fixed sample needs."""
    low = math.log(fixed)
    found = optimize.brentq(lambda log_n: power_by(math.exp(log_n)) - power, low, low + math.log(1e4), xtol=1e-10)
    return math.exp(float(found))


def sequential_paired_sample_size(
    discordance: float,
    margin: float,
    difference: float = 0.0,
    alpha: float = 0.05,
    power: float = 0.8,
    tuning_n: float | None = None,
) -> SampleSize | NotEstimable:
    """Pairs by which the sequence over pairs shows non-inferiority with the wanted power (at the latest).

    Args:
        discordance: share of pairs in which one side is right and the other wrong, in (0, 1].
        margin: a fraction in (0, 1).
        difference: expected EM of the treatment minus that of the control; its square is below the discordance.
        alpha: one-sided, in (0, .5).
        power: in (alpha, 1).
        tuning_n: N*, pairs; None: the sample itself, which is about the best choice.
    """
    fixed = paired_sample_size(discordance, margin, difference, alpha, power)
    if isinstance(fixed, NotEstimable):
        return fixed
    drift = (margin + difference) / math.sqrt(discordance - difference**2)

    def power_by(n: float) -> float:
        critical = sequential.multiplier(n, n if tuning_n is None else tuning_n, alpha, one_sided=True)
        return float(stats.norm.cdf(drift * math.sqrt(n) - critical))

    n = _smallest(power_by, power, fixed.unrounded)
    return SampleSize(math.ceil(n), math.ceil(n), n, power, alpha, "paired_asymptotic_confidence_sequence")


def joint_sequential_sample_size(
    em: EMQuestion, tokens: TokenQuestion, alpha: float = 0.05, power: float = 0.8, ratio: float = 1.0
) -> SampleSize | NotEstimable:
    """Units by which both questions are answered: each gets half of what may be missed (Bonferroni)."""
    each = 1 - (1 - require_power(power, checks.fraction("alpha", alpha, high=0.5))) / 2
    alone = [sequential_sample_size(question, alpha, each, ratio) for question in (em, tokens)]
    sizes = []
    for found in alone:
        if isinstance(found, NotEstimable):
            return found
        sizes.append(found)
    larger = max(sizes, key=lambda size: size.unrounded)
    return SampleSize(
        larger.control, larger.treatment, larger.unrounded, power, alpha, "joint_asymptotic_confidence_sequence"
    )


def simulate_stopping(
    question: Question,
    maximum: int,
    tuning_n: float,
    seed: int,
    alpha: float = 0.05,
    ratio: float = 1.0,
    looks: int = 200,
    replications: int = 4_000,
) -> Stopping:
    """Power and mean sample of a sequential experiment with evenly spaced looks, on Brownian motion with drift.

    Args:
        question: of EM or of tokens, distance > 0.
        maximum: units of the treatment at which it ends, > 0.
        tuning_n: N*, units of both arms.
        seed: of the random numbers.
        alpha: one-sided, in (0, .5).
        ratio: control units for each unit of the treatment, > 0.
        looks: >= 1.
        replications: >= 2.
    """
    checks.positive("distance", question.distance)
    units = np.linspace(maximum / looks, maximum, looks)
    rng = np.random.default_rng(seed)
    step = maximum / looks
    noise = rng.normal(0.0, math.sqrt(question.variance(ratio) * step), (replications, looks))
    sums = np.cumsum(question.distance * step + noise, axis=1)
    critical = np.array([sequential.multiplier(n * (1 + ratio), tuning_n, alpha, one_sided=True) for n in units])
    crossed = sums / np.sqrt(question.variance(ratio) * units) >= critical
    ever = crossed.any(axis=1)
    stopped = np.where(ever, units[crossed.argmax(axis=1)], float(maximum))
    power = float(ever.mean())
    fixed = sample_size(question, alpha, min(power, 0.999), ratio) if power > alpha else None
    return Stopping(
        power=power,
        power_error=math.sqrt(power * (1 - power) / replications),
        mean_units=float(stopped.mean()),
        mean_units_error=float(stopped.std(ddof=1) / math.sqrt(replications)),
        fixed_units=fixed.unrounded if isinstance(fixed, SampleSize) else 0.0,
        replications=replications,
    )
