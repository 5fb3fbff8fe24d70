"""Capping outliers: a few runaway thoughts shall not decide a comparison of means."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments.statistics import checks


@dataclass(frozen=True, slots=True)
class Capped:
    """Values of both arms, none above one common cap.

    Attributes:
        cap: in units of the metric.
        control: shape (n,).
        treatment: shape (m,).
        share_control: of the control's values that were above the cap.
        share_treatment: of the treatment's.
    """

    cap: float
    control: NDArray[np.float64]
    treatment: NDArray[np.float64]
    share_control: float
    share_treatment: float


def cap_at(control: ArrayLike, treatment: ArrayLike, cap: float) -> Capped:
    """Caps the values of both arms at a declared bound, > 0.

    Raises:
        ValueError: an arm without values, a value that is not finite, or a cap that is not > 0.
    """
    checks.positive("cap", cap)
    arms = []
    for name, values in (("control", control), ("treatment", treatment)):
        array = np.asarray(values, dtype=np.float64)
        if array.ndim != 1 or array.size == 0:
            raise ValueError(f"{name} must have the shape (n,) with n >= 1, got {array.shape}")
        if not np.all(np.isfinite(array)):
            raise ValueError(f"{name} must be finite, got NaN or infinity")
        arms.append(array)
    shares = [float(np.mean(array > cap)) for array in arms]
    return Capped(float(cap), np.minimum(arms[0], cap), np.minimum(arms[1], cap), shares[0], shares[1])


def winsorise(control: ArrayLike, treatment: ArrayLike, quantile: float) -> Capped:
    """Caps both arms at one quantile of their pooled values, so that the cap itself favours neither.

    Args:
        control: shape (n,).
        treatment: shape (m,).
        quantile: in (0, 1), e.g. 0.95.
    """
    checks.fraction("quantile", quantile)
    pooled = np.concatenate([np.asarray(values, dtype=np.float64).ravel() for values in (control, treatment)])
    if pooled.size == 0:
        raise ValueError("control and treatment must have at least 1 value, got 0")
    return cap_at(control, treatment, float(np.quantile(pooled, quantile)))
