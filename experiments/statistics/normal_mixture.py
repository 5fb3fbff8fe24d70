"""Uniform boundaries for a martingale with known variance process: the normal mixture.

Howard, Ramdas, McAuliffe and Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence sequences" (Annals of
Statistics 2021; arXiv 1810.08240), section 3.2. `sequential.py` is the same mixture with an estimated variance; there
rho² is that of Waudby-Smith et al., here rho that of Howard et al. (their product with the tuning time is fixed).
"""

from __future__ import annotations

import math
from typing import Literal

from scipy import optimize, stats

from experiments.statistics import checks

Sides = Literal["one", "two"]


def best_rho(tuning_variance: float, alpha: float) -> float:
    """The rho that makes the two-sided boundary about tightest at a variance (section 3.5, closed approximation).

    Args:
        tuning_variance: in squared units of the martingale, > 0.
        alpha: in (0, 1). For the one-sided boundary pass twice its alpha.
    """
    checks.positive("tuning_variance", tuning_variance)
    log_term = -2 * math.log(checks.fraction("alpha", alpha))
    return tuning_variance / (log_term + math.log1p(log_term))


def log_mixture(s: float, v: float, rho: float, sides: Sides = "two") -> float:
    """Natural logarithm of the mixture supermartingale at sum `s` and variance `v` (eq. 14; one-sided eq. 15)."""
    checks.finite("s", s)
    checks.non_negative("v", v)
    checks.positive("rho", rho)
    two = 0.5 * math.log(rho / (v + rho)) + s * s / (2 * (v + rho))
    if sides == "two":
        return two
    return float(two + math.log(2) + stats.norm.logcdf(s / math.sqrt(v + rho)))


def boundary(v: float, alpha: float, rho: float, sides: Sides = "two") -> float:
    """Value that the sum exceeds at any time with probability at most alpha (eq. 14; one-sided eq. 15)."""
    checks.fraction("alpha", alpha)
    checks.positive("rho", rho)
    two_sided = math.sqrt((checks.non_negative("v", v) + rho) * math.log((v + rho) / (alpha * alpha * rho)))
    if sides == "two":
        return two_sided
    limit = math.log(1 / alpha)
    return float(optimize.brentq(lambda s: log_mixture(s, v, rho, "one") - limit, 0.0, 2 * two_sided))
