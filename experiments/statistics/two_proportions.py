"""Two independent proportions at a fixed sample size: difference, non-inferiority, equivalence, relative risk."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from scipy import optimize, stats
from statsmodels.stats.proportion import confint_proportions_2indep

from experiments.statistics import checks
from experiments.statistics.results import Estimate, Interval
from experiments.statistics.score_test import ratio_score_statistic, score_statistic

DifferenceMethod = Literal["newcombe", "miettinen_nurminen", "agresti_caffo"]
TestMethod = Literal["farrington_manning", "miettinen_nurminen", "wald", "agresti_caffo"]
# statsmodels is right in these (and wrong in its score intervals, see score_test.py).
_STATSMODELS = {"newcombe": "newcomb", "agresti_caffo": "agresti-caffo"}
_EDGE = 1e-12


@dataclass(frozen=True, slots=True)
class Counts:
    """Successes and observations of both arms: 0 <= successes <= observations, at least 1 observation each."""

    control: int
    n_control: int
    treatment: int
    n_treatment: int

    def __post_init__(self) -> None:
        for name, n in (("control", self.n_control), ("treatment", self.n_treatment)):
            checks.positive(f"n_{name}", checks.count(f"n_{name}", n))
            if checks.count(name, getattr(self, name)) > n:
                raise ValueError(f"{name} must be <= n_{name} = {n}, got {getattr(self, name)}")

    @property
    def rates(self) -> tuple[float, float]:
        """The proportions of control and treatment."""
        return self.control / self.n_control, self.treatment / self.n_treatment

    @property
    def difference(self) -> float:
        """treatment - control."""
        return self.rates[1] - self.rates[0]

    def standard_error(self, added: int = 0) -> float:
        """Unpooled standard error of the difference, with `added` pseudo-observations per arm, half of them right."""
        variance = 0.0
        for x, n in ((self.control, self.n_control), (self.treatment, self.n_treatment)):
            p = (x + added / 2) / (n + added)
            variance += p * (1 - p) / (n + added)
        return math.sqrt(variance)


@dataclass(frozen=True, slots=True)
class OneSidedTest:
    """A one-sided test.

    Attributes:
        statistic: about standard normal at the boundary of the null; large values reject.
        p_value: one-sided.
        method: its name.
    """

    statistic: float
    p_value: float
    method: str


def difference(counts: Counts, level: float, method: DifferenceMethod = "newcombe") -> Estimate:
    """Treatment minus control with an interval that behaves at 0 and 1.

    "newcombe": Newcombe (Statistics in Medicine 1998), method 10. "miettinen_nurminen": inverts the score test of
    Miettinen and Nurminen (Statistics in Medicine 1985). "agresti_caffo": Agresti and Caffo (The American
    Statistician 2000).
    """
    checks.fraction("level", level)
    if method == "miettinen_nurminen":
        lower, upper = _score_interval(counts, level)
    elif method in _STATSMODELS:
        lower, upper = confint_proportions_2indep(
            counts.treatment,
            counts.n_treatment,
            counts.control,
            counts.n_control,
            compare="diff",
            method=_STATSMODELS[method],
            alpha=1 - level,
        )
    else:
        raise ValueError(f"method must be newcombe, miettinen_nurminen or agresti_caffo, got {method!r}")
    value, n = counts.difference, counts.n_control + counts.n_treatment
    # Agresti and Caffo's interval is centred elsewhere: at the corners it may leave [-1, 1] or miss the estimate.
    interval = Interval(min(max(float(lower), -1.0), value), max(min(float(upper), 1.0), value), level)
    return Estimate(value, counts.standard_error(), interval, method, False, n, n)


def _score_interval(counts: Counts, level: float) -> tuple[float, float]:
    z = float(stats.norm.isf((1 - level) / 2))

    def excess(null: float, sign: int) -> float:
        return _score(counts, null, corrected=True) - sign * z

    value = counts.difference
    lower, upper = -1 + _EDGE, 1 - _EDGE
    if excess(lower, 1) > 0 and value > lower:
        lower = optimize.brentq(excess, lower, min(value, 1 - _EDGE), args=(1,), xtol=1e-12)
    if excess(upper, -1) < 0 and value < upper:
        upper = optimize.brentq(excess, max(value, -1 + _EDGE), upper, args=(-1,), xtol=1e-12)
    return lower, upper


def _score(counts: Counts, null: float, *, corrected: bool) -> float:
    return score_statistic(
        counts.control, counts.n_control, counts.treatment, counts.n_treatment, null, corrected=corrected
    )


def non_inferiority(counts: Counts, margin: float, method: TestMethod = "farrington_manning") -> OneSidedTest:
    """Tests the null "treatment - control <= -margin".

    "farrington_manning" (Statistics in Medicine 1990) takes the variance under the null, so that counts of 0 and of
    all work; "miettinen_nurminen" adds the factor N/(N-1); "wald" and "agresti_caffo" take it from the data.

    Args:
        counts: both arms.
        margin: a fraction in (0, 1).
        method: whose test.
    """
    checks.fraction("margin", margin)
    return _one_sided(counts, -margin, method)


def _one_sided(counts: Counts, null: float, method: TestMethod) -> OneSidedTest:
    """Rejects for differences above `null`."""
    if method in ("farrington_manning", "miettinen_nurminen"):
        z = _score(counts, null, corrected=method == "miettinen_nurminen")
    elif method in ("wald", "agresti_caffo"):
        z = _wald(counts, null, 2 if method == "agresti_caffo" else 0)
    else:
        raise ValueError(
            f"method must be farrington_manning, miettinen_nurminen, wald or agresti_caffo, got {method!r}"
        )
    return OneSidedTest(z, float(stats.norm.sf(z)), method)


def _wald(counts: Counts, null: float, added: int) -> float:
    rates = [
        (x + added / 2) / (n + added)
        for x, n in ((counts.control, counts.n_control), (counts.treatment, counts.n_treatment))
    ]
    se, distance = counts.standard_error(added), rates[1] - rates[0] - null
    if se == 0:
        return 0.0 if distance == 0 else math.copysign(math.inf, distance)
    return distance / se


def equivalence(counts: Counts, margin: float, method: TestMethod = "farrington_manning") -> float:
    """p-value of the null "the difference is at least margin in either direction": the larger of two one-sided ones.

    Schuirmann (Journal of Pharmacokinetics and Biopharmaceutics 1987).
    """
    checks.fraction("margin", margin)
    mirrored = Counts(counts.treatment, counts.n_treatment, counts.control, counts.n_control)
    return max(_one_sided(side, -margin, method).p_value for side in (counts, mirrored))


def relative_risk(counts: Counts, level: float) -> tuple[float, Interval] | None:
    """Treatment's proportion over the control's with Koopman's (Biometrics 1984) score interval.

    None where the control has no success: the ratio is not bounded then. statsmodels' interval for the ratio is not
    used: up to 0.15.0 it is wrong where an arm is full.
    """
    checks.fraction("level", level)
    if counts.control == 0:
        return None
    z, value = float(stats.norm.isf((1 - level) / 2)), counts.rates[1] / counts.rates[0]
    both = counts.control, counts.n_control, counts.treatment, counts.n_treatment

    def limit(sign: int) -> float:
        start = math.log(value) if value > 0 else 0.0
        return math.exp(_root_of_falling(lambda x: ratio_score_statistic(*both, math.exp(x)) - sign * z, start))

    lower = limit(1) if value > 0 else 0.0
    return value, Interval(min(lower, value), max(limit(-1), value), level)


def _root_of_falling(function: Callable[[float], float], start: float) -> float:
    low = high = start
    while function(low) <= 0:
        low -= 1.0
    while function(high) >= 0:
        high += 1.0
    return float(optimize.brentq(function, low, high, xtol=1e-12))
