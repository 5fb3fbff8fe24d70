"""What a phase may spend of the error rates that its experiment declared."""

from __future__ import annotations

from experiments.statistics import checks

# Far below anything that can be decided, and large enough that 1 - alpha is still less than 1 in floating point. Even a
# thousand phases at it add only a billionth.
SMALLEST = 1e-12


def alpha_in_phase(alpha: float, number: int) -> float:
    """The share of an error rate for the tests of one phase: 3/4 of it in the first, 1/4 of the last in each further.

    Phases are never pooled, so the tests of each start anew, and each may err. The shares are those of a geometric
    series that sums to alpha: by the union bound all phases together keep it, however many there will be.

    Args:
        alpha: of the whole experiment, in (0, 1).
        number: of the phase, from 1.

    Raises:
        ValueError: a value is out of its bounds.
    """
    checks.positive("number", checks.count("number", number))
    # 4^500 is within floating point, and the smallest alpha is reached long before.
    return max(SMALLEST, checks.fraction("alpha", alpha) * 0.75 / 4.0 ** (min(number, 500) - 1))
