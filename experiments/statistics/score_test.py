"""Two proportions whose difference (or ratio) is given: restricted maximum likelihood, and the score test it makes.

statsmodels 0.15.0 has the cubic's coefficients wrong for a difference that is not zero (its issue 10269), so the
closed form is here.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments.statistics import checks

_POLISHING_STEPS = 4


def restricted_mle(
    x_control: ArrayLike, n_control: ArrayLike, x_treatment: ArrayLike, n_treatment: ArrayLike, difference: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The likeliest proportions of both arms that are `difference` apart (treatment - control).

    Closed form of the cubic likelihood equation: Farrington and Manning (Statistics in Medicine 1990), appendix;
    Miettinen and Nurminen (Statistics in Medicine 1985). A few Newton steps make up for what the arc cosine
    loses where roots are close to each other.

    Args:
        x_control: successes, real numbers in [0, n_control]; all arguments are broadcast.
        n_control: observations, > 0.
        x_treatment: successes in [0, n_treatment].
        n_treatment: observations, > 0.
        difference: in [-1, 1].

    Returns:
        The proportions of control and treatment.
    """
    xc, nc, xt, nt, d = np.broadcast_arrays(
        *(np.asarray(value, dtype=np.float64) for value in (x_control, n_control, x_treatment, n_treatment, difference))
    )
    low, high = np.maximum(0.0, -d), np.minimum(1.0, 1.0 - d)
    control = np.clip(_cubic_root(xc / nc, xt / nt, nc / nt, d) - d, low, high)
    control = _polish(control, (xc, nc, xt, nt), d, low, high)
    return control, np.clip(control + d, 0.0, 1.0)


def _cubic_root(
    p_control: NDArray[Any], p_treatment: NDArray[Any], ratio: NDArray[Any], d: NDArray[Any]
) -> NDArray[np.float64]:
    """The treatment's proportion: the root of the likelihood equation that lies in its range."""
    a = 1 + ratio
    b = -(1 + ratio + p_treatment + ratio * p_control + d * (ratio + 2))
    c = d * d + d * (2 * p_treatment + ratio + 1) + p_treatment + ratio * p_control
    e = -p_treatment * d * (1 + d)
    v = b**3 / (27 * a**3) - b * c / (6 * a**2) + e / (2 * a)
    u = np.where(v < 0, -1.0, 1.0) * np.sqrt(np.maximum(b * b / (9 * a * a) - c / (3 * a), 0.0))
    cosine = np.divide(v, u**3, out=np.zeros_like(v), where=np.abs(u) > 1e-100)
    w = (np.pi + np.arccos(np.clip(cosine, -1.0, 1.0))) / 3
    root: NDArray[np.float64] = 2 * u * np.cos(w) - b / (3 * a)
    return root


def _polish(
    control: NDArray[Any], counts: tuple[NDArray[Any], ...], d: NDArray[Any], low: NDArray[Any], high: NDArray[Any]
) -> NDArray[np.float64]:
    """Newton's method on the log-likelihood's slope, which falls from left to right."""
    xc, nc, xt, nt = counts
    tiny = np.finfo(np.float64).tiny
    for _ in range(_POLISHING_STEPS):
        p = np.stack((control, control + d))
        x, n = np.stack((xc, xt)), np.stack((nc, nt))
        hit, miss = np.maximum(p, tiny), np.maximum(1 - p, tiny)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            slope = (x / hit - (n - x) / miss).sum(axis=0)
            bend = (x / hit**2 + (n - x) / miss**2).sum(axis=0)
            step = slope / bend
        step = np.where(np.isfinite(step), step, 0.0)
        # Never more than nine tenths of the way to an end of the range, where the slope is infinite.
        moved = np.clip(control + step, control - 0.9 * (control - low), control + 0.9 * (high - control))
        control = np.where(np.isfinite(moved), moved, control)
    return control


def score_statistic(
    x_control: float, n_control: float, x_treatment: float, n_treatment: float, difference: float, *, corrected: bool
) -> float:
    """Signed score statistic of the null "treatment - control = difference", about standard normal under it.

    Args:
        x_control: successes, in [0, n_control].
        n_control: observations, > 0.
        x_treatment: successes, in [0, n_treatment].
        n_treatment: observations, > 0.
        difference: in (-1, 1).
        corrected: with the variance factor N/(N-1) of Miettinen and Nurminen (1985, eq. 8), without it as
            Farrington and Manning (1990).
    """
    checks.fraction("difference", difference, low=-1.0)
    control, treatment = (
        float(value) for value in restricted_mle(x_control, n_control, x_treatment, n_treatment, difference)
    )
    variance = control * (1 - control) / n_control + treatment * (1 - treatment) / n_treatment
    if corrected:
        total = n_control + n_treatment
        variance *= total / (total - 1)
    distance = x_treatment / n_treatment - x_control / n_control - difference
    if variance <= 0:
        return 0.0 if abs(distance) < 1e-12 else float(np.copysign(np.inf, distance))
    return float(distance / np.sqrt(variance))


def ratio_score_statistic(x_control: int, n_control: int, x_treatment: int, n_treatment: int, ratio: float) -> float:
    """Signed score statistic of the null "treatment / control = ratio", about standard normal under it.

    Its square is Koopman's (Biometrics 1984) U, eq. 2.1; the restricted estimate is the smaller root of the quadratic
    likelihood equation in Miettinen and Nurminen (Statistics in Medicine 1985), appendix I (their variance has the
    factor N/(N-1) beside it).

    Args:
        x_control: successes, in [0, n_control].
        n_control: observations, > 0.
        x_treatment: successes, in [0, n_treatment].
        n_treatment: observations, > 0.
        ratio: > 0.
    """
    checks.positive("ratio", ratio)
    a = (n_control + n_treatment) * ratio
    b = n_treatment * ratio + x_treatment + n_control + x_control * ratio
    c = x_control + x_treatment
    # The root by this form, because b - sqrt(...) would cancel where the ratio is small.
    control = min(1.0, 1.0 / ratio, 2 * c / (b + math.sqrt(max(b * b - 4 * a * c, 0.0))))
    treatment = min(1.0, control * ratio)
    variance = treatment * (1 - treatment) / n_treatment + ratio * ratio * control * (1 - control) / n_control
    distance = x_treatment / n_treatment - ratio * x_control / n_control
    if variance <= 0:
        return 0.0 if abs(distance) < 1e-12 else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)
