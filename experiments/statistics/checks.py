"""Checks of arguments: every error names the parameter, the value and the bound."""

from __future__ import annotations

import math
from collections.abc import Mapping


def finite(name: str, value: float) -> float:
    """Returns `value` when it is a finite number.

    Raises:
        ValueError: it is NaN or infinite.
        TypeError: it is not a number (booleans are not numbers here).
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
    return value


def non_negative(name: str, value: float) -> float:
    """Returns `value` when it is finite and >= 0, or raises ValueError."""
    if finite(name, value) < 0:
        raise ValueError(f"{name} must be >= 0, got {value}")
    return value


def positive(name: str, value: float) -> float:
    """Returns `value` when it is finite and > 0, or raises ValueError."""
    if finite(name, value) <= 0:
        raise ValueError(f"{name} must be > 0, got {value}")
    return value


def count(name: str, value: int) -> int:
    """Returns `value` when it is an integer >= 0, or raises (TypeError, ValueError)."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < 0:
        raise ValueError(f"{name} must be >= 0, got {value}")
    return value


def fraction(name: str, value: float, low: float = 0.0, high: float = 1.0) -> float:
    """Returns `value` when low < value < high, or raises ValueError.

    Fractions are stored (0.05), never points or percent, so a margin of 3 fails here.
    """
    if not low < finite(name, value) < high:
        raise ValueError(f"{name} must be in ({low:g}, {high:g}), got {value}")
    return value


def weights(name: str, value: Mapping[str, float]) -> dict[str, float]:
    """Returns a copy of a mapping of at least two positive weights that sum to 1 (within 1e-6).

    Raises:
        ValueError: fewer than two entries, a weight outside (0, 1), or a sum that is not 1.
    """
    if len(value) < 2:
        raise ValueError(f"{name} must have at least 2 entries, got {len(value)}")
    for key, weight in value.items():
        fraction(f"{name}[{key!r}]", weight)
    total = math.fsum(value.values())
    if abs(total - 1.0) > 1e-6:
        raise ValueError(f"{name} must sum to 1 (within 1e-6), got {total}")
    return dict(value)
