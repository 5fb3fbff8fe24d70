"""`math_verify`: equal mathematics, as the library math-verify judges it.

This module says what the grader is. The library parses with ANTLR, computes with sympy and may need any time,
so that its judgement runs in a process of its own that can be killed.
"""

from __future__ import annotations

from dataclasses import dataclass

from experiments.grading.base import Grader
from experiments.grading.options import Flag, Number, declare

# Version 1 of the grader is this release; another release is another version.
MATH_VERIFY_RELEASE = "0.9.0"


@dataclass(frozen=True)
class MathVerify(Grader):
    """Equal mathematics: fractions, decimals, sets, intervals, equations, in LaTeX or plain.

    The judgement is not symmetric: a set may answer a reference that is a relation, but not the other way.

    Attributes:
        float_rounding: decimal places that numbers are compared at.
        strict: whether the names of variables matter, and sets differ from tuples.
    """

    name = "math_verify"
    version = 1
    float_rounding: int = declare(Number(0, 15, whole=True), 6)
    strict: bool = declare(Flag(), True)

    @property
    def isolated(self) -> bool:
        """Always."""
        return True

    def _matches(self, answer: str, reference: str) -> bool:
        raise RuntimeError("math_verify judges in a process of its own, see experiments.services.judging")
