"""Adjusting p-values for several treatments or segments."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import stats


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's (1979) step-down adjusted p-values, in the order given.

    A hypothesis is rejected at family-wise level alpha when its adjusted p-value is <= alpha. Always-valid
    p-values stay always valid under it, because at every time it is a closed test of Bonferroni tests.

    Raises:
        ValueError: no p-value, or one outside [0, 1].
    """
    _check(p_values)
    # Not by statsmodels' multipletests: it collects garbage at each call, which costs a look more than all the rest.
    order = sorted(p_values, key=lambda key: p_values[key])
    adjusted, largest = {}, 0.0
    for rank, key in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[key]))
        adjusted[key] = largest
    return {key: adjusted[key] for key in p_values}


def benjamini_hochberg(p_values: Mapping[str, float]) -> dict[str, float]:
    """Benjamini and Hochberg's (1995) step-up adjusted p-values, in the order given.

    Rejecting what is <= q keeps the expected share of false discoveries at q for independent or positively dependent
    tests: for exploration, not for decisions.

    Raises:
        ValueError: no p-value, or one outside [0, 1].
    """
    _check(p_values)
    adjusted = stats.false_discovery_control(np.array(list(p_values.values())), method="bh")
    return {key: float(value) for key, value in zip(p_values, adjusted, strict=True)}


def _check(p_values: Mapping[str, float]) -> None:
    if not p_values:
        raise ValueError("p_values must have at least 1 entry, got 0")
    for key, value in p_values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"p_values[{key!r}] must be in [0, 1], got {value}")
