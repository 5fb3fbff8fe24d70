"""Paired outcomes: the same request with and without the early exit."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from scipy import optimize, stats
from statsmodels.stats.contingency_tables import mcnemar

from experiments.statistics import checks, sequential
from experiments.statistics.aggregates import ClusterAggregate
from experiments.statistics.design import MINIMUM_UNITS
from experiments.statistics.proportions import PSEUDO_UNITS
from experiments.statistics.results import Estimate, Interval, NotEstimable
from experiments.statistics.two_proportions import OneSidedTest

_EDGE = 1e-12


@dataclass(frozen=True, slots=True)
class PairTable:
    """Pairs by who was right, each count >= 0. Tables of disjoint pairs add up."""

    both_right: int
    only_control: int
    only_treatment: int
    both_wrong: int

    def __post_init__(self) -> None:
        for item in fields(self):
            checks.count(item.name, getattr(self, item.name))

    def __add__(self, other: PairTable) -> PairTable:
        return PairTable(*(getattr(self, item.name) + getattr(other, item.name) for item in fields(self)))

    @property
    def n(self) -> int:
        """All pairs."""
        return self.both_right + self.only_control + self.only_treatment + self.both_wrong

    @property
    def discordant(self) -> int:
        """Pairs in which one side was right and the other wrong."""
        return self.only_control + self.only_treatment

    @property
    def difference(self) -> float:
        """EM of the treatment minus EM of the control. Raises ValueError without a pair."""
        return (self.only_treatment - self.only_control) / checks.positive("n", self.n)


@dataclass(frozen=True, slots=True)
class McNemar:
    """McNemar's (Psychometrika 1947) tests of equal EM, two-sided.

    Attributes:
        p_exact: binomial on the discordant pairs; conservative.
        p_mid: mid-p (Fagerland, Lydersen and Laake, BMC Medical Research Methodology 2013): the default to quote.
            Twice the smaller tail less half its last term; with equally many discordant pairs each way both tails
            are the smaller one, twice it is exactly 1, and 1 is what is returned (by convention: their formula as
            printed, p_exact minus that one term, would be below 1 there).
        chi_square: without continuity correction; p_chi_square is its p-value.
        p_corrected: chi-square with Edwards' continuity correction.
    """

    p_exact: float
    p_mid: float
    chi_square: float
    p_chi_square: float
    p_corrected: float


def mcnemar_test(table: PairTable) -> McNemar | NotEstimable:
    """Tests whether both sides are right equally often; NotEstimable without a discordant pair."""
    if table.discordant == 0:
        return NotEstimable("no pair is discordant: nothing speaks for either side")
    square = [[table.both_right, table.only_control], [table.only_treatment, table.both_wrong]]
    exact, plain = mcnemar(square, exact=True), mcnemar(square, exact=False, correction=False)
    smaller = min(table.only_control, table.only_treatment)
    tail = float(stats.binom.cdf(smaller, table.discordant, 0.5) - stats.binom.pmf(smaller, table.discordant, 0.5) / 2)
    return McNemar(
        p_exact=float(exact.pvalue),
        p_mid=1.0 if table.only_control == table.only_treatment else min(1.0, 2 * tail),
        chi_square=float(plain.statistic),
        p_chi_square=float(plain.pvalue),
        p_corrected=float(mcnemar(square, exact=False, correction=True).pvalue),
    )


def tango_statistic(table: PairTable, null: float) -> float:
    """Score statistic of "treatment - control = null" on pairs, about standard normal under it.

    Tango (Statistics in Medicine 1998), eq. 5 and 9.

    Args:
        table: at least 1 pair.
        null: in (-1, 1).
    """
    checks.fraction("null", null, low=-1.0)
    n, gained, lost = checks.positive("n", table.n), table.only_treatment, table.only_control
    # Tango's parameter is control - treatment here reversed: his b is what the treatment gains.
    a, b, c = 2 * n, -gained - lost + (2 * n - gained + lost) * null, -lost * null * (1 - null)
    share_lost = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = n * (2 * share_lost + null * (1 - null))
    distance = gained - lost - n * null
    if variance <= 0:
        return 0.0 if distance == 0 else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)


def tango_interval(table: PairTable, level: float) -> Estimate | NotEstimable:
    """Tango's score interval of treatment - control; it works with 0 discordant pairs."""
    checks.fraction("level", level)
    if table.n == 0:
        return NotEstimable("an interval needs at least 1 pair, got 0")
    z, value = float(stats.norm.isf((1 - level) / 2)), table.difference

    def excess(null: float, sign: int) -> float:
        return tango_statistic(table, null) - sign * z

    lower, upper = -1 + _EDGE, 1 - _EDGE
    if value > lower and excess(lower, 1) > 0:
        lower = optimize.brentq(excess, lower, min(value, 1 - _EDGE), args=(1,), xtol=1e-12)
    if value < upper and excess(upper, -1) < 0:
        upper = optimize.brentq(excess, max(value, -1 + _EDGE), upper, args=(-1,), xtol=1e-12)
    interval = Interval(min(lower, value), max(upper, value), level)
    return Estimate(value, _standard_error(table), interval, "tango", False, table.n, table.n)


def _standard_error(table: PairTable) -> float:
    return math.sqrt(max(0.0, table.discordant / table.n - table.difference**2) / table.n)


def non_inferiority(table: PairTable, margin: float) -> OneSidedTest:
    """Tests the null "treatment - control <= -margin" on pairs by Tango's (1998) score statistic."""
    checks.fraction("margin", margin)
    z = tango_statistic(table, -margin)
    return OneSidedTest(z, float(stats.norm.sf(z)), "tango")


def token_difference(control: ClusterAggregate, both: ClusterAggregate, level: float) -> Estimate | NotEstimable:
    """Mean tokens of the treatment minus those of the control within pairs.

    Args:
        control: the control's tokens over units, for the count of pairs.
        both: the difference treatment - control summed over each unit's pairs.
        level: nominal coverage in (0, 1).
    """
    checks.fraction("level", level)
    if both.units < 2:
        return NotEstimable(f"a paired difference needs at least 2 units, got {both.units}")
    if control.sum_n != both.sum_n:
        raise ValueError(f"both.sum_n must be control.sum_n = {control.sum_n}, got {both.sum_n}")
    value, se = both.mean, math.sqrt(both.variance_of_mean)
    half = float(stats.t.isf((1 - level) / 2, both.units - 1)) * se
    pairs = round(both.sum_n)
    return Estimate(value, se, Interval(value - half, value + half, level), "paired_t", False, both.units, pairs)


@dataclass(frozen=True, slots=True)
class SequentialPairs:
    """Pairs under repeated looks.

    Attributes:
        difference: EM of the treatment minus that of the control, with its anytime-valid interval.
        lower_bound: one-sided anytime-valid lower bound.
        p_non_inferiority: always-valid p-value of the null "difference <= -margin".
    """

    difference: Estimate
    lower_bound: float
    p_non_inferiority: float


def sequential_pairs(
    pairs: ClusterAggregate, margin: float, alpha: float, level: float, tuning_n: float
) -> SequentialPairs | NotEstimable:
    """The asymptotic confidence sequence on the differences within pairs.

    A difference is -1, 0 or 1, so this is the sequence of one mean (Waudby-Smith et al. 2024, eq. 9 and 134), with
    units as clusters. Pseudo-units whose pairs are all discordant, PSEUDO_UNITS each way, keep the variance from
    vanishing while no pair has been discordant (see `proportions.smoothed_variance`).

    Args:
        pairs: only_treatment - only_control summed over each unit's graded pairs, out of its graded pairs; only units
            that have any count.
        margin: a fraction in (0, 1).
        alpha: of the one-sided bound, in (0, .5).
        level: of the two-sided interval, in (0, 1).
        tuning_n: N*, units.
    """
    checks.fraction("margin", margin)
    if pairs.units < MINIMUM_UNITS or pairs.sum_n == 0:
        return NotEstimable(f"pairs need at least {MINIMUM_UNITS} units with graded ones, got {pairs.units}")
    count, size = 2 * PSEUDO_UNITS, pairs.sum_n / pairs.units
    pseudo = ClusterAggregate(count, count * size, 0, count * size * size, count * size * size, 0)
    value, se, n = pairs.mean, math.sqrt((pairs + pseudo).variance_of_mean), pairs.units
    raw = sequential.confidence_sequence(value, se, n, tuning_n, 1 - level)
    interval = Interval(max(raw.lower, -1.0), min(raw.upper, 1.0), level)
    return SequentialPairs(
        difference=Estimate(value, se, interval, "asymptotic_confidence_sequence", True, n, round(pairs.sum_n)),
        lower_bound=max(-1.0, sequential.lower_bound(value, se, n, tuning_n, alpha)),
        p_non_inferiority=sequential.always_valid_p(value, se, n, tuning_n, alpha, null=-margin, alternative="greater"),
    )
