"""Small arms, designs and looks for the tests of the statistics."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from experiments.statistics import ArmAggregates, ClusterAggregate, Design, LookInputs, Outcomes


def from_summary(n: int, mean: float, sd: float) -> ClusterAggregate:
    """Units with one completion each, from a published sample size, mean and standard deviation (n - 1)."""
    return ClusterAggregate(n, n, n * mean, (n - 1) * sd**2 + n * mean**2, n, n * mean)


def from_sums(total: float, squares: float, n: int) -> ClusterAggregate:
    """Units with one completion each, from a published sum, sum of squares and sample size."""
    return ClusterAggregate(n, n, total, squares, n, total)


def proportion(correct: int, n: int) -> ClusterAggregate:
    """`n` units with one labelled completion each, `correct` of them right."""
    return ClusterAggregate(n, n, correct, correct, n, correct)


def tokens(n: int, mean: float, sd: float = 100.0) -> ClusterAggregate:
    """`n` units with one completion each; half of them at mean - sd, half at mean + sd."""
    half = n // 2
    values = np.array([mean - sd] * half + [mean + sd] * half + [mean] * (n - 2 * half))
    return ClusterAggregate.from_values(values)


def arm(
    key: str,
    n: int = 1_000,
    correct: int | None = 900,
    mean: float = 1_000.0,
    *,
    labelled: int | None = None,
    **changes: Any,
) -> ArmAggregates:
    """An arm with one answered completion per unit; `correct` None means that nothing is labelled."""
    labelled = (0 if correct is None else n) if labelled is None else labelled
    spent = tokens(n, mean)
    values: dict[str, Any] = {
        "key": key,
        "exposures": n,
        "em": None if correct is None else proportion(correct, labelled),
        "decoded_tokens": spent,
        "tokens_without_probes": tokens(n, mean * 0.9),
        "completions": n,
        "labelled_completions": labelled,
        "outcomes": Outcomes(answered=n),
    }
    return ArmAggregates(**(values | changes))


def design(*treatments: str, **changes: Any) -> Design:
    """Equal weights, margin 5 points, minimum saving 20 %, control `full`."""
    keys = ("full", *(treatments or ("early",)))
    values: dict[str, Any] = {
        "control": "full",
        "weights": {key: 1 / len(keys) for key in keys},
        "margin": 0.05,
        "min_saving": 0.2,
        "tuning_n": 2_000.0,
    }
    return Design(**(values | changes))


def look(*arms: ArmAggregates, **changes: Any) -> LookInputs:
    """A look at the given arms, the control `full` among them."""
    fields = {key: changes.pop(key) for key in ("srm", "duration_reached", "reverted") if key in changes}
    keys = [item.key for item in arms if item.key != "full"]
    return LookInputs(design=design(*keys, **changes), arms=arms, **fields)


def close(value: float, expected: float, tolerance: dict[str, float]) -> bool:
    """Whether a value agrees with a vector at the vector's own tolerance."""
    return math.isclose(value, expected, rel_tol=tolerance.get("rel", 0.0), abs_tol=tolerance.get("abs", 0.0))
