"""`numeric`: equal numbers, within a tolerance. Exact arithmetic, no floats."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

from experiments.grading.base import Grader
from experiments.grading.options import Choice, Number, declare

# 10 to the power of more would take long to write out.
_MAX_EXPONENT = 400
_MAX_LENGTH = 1000
_DECIMAL = r"(?:(?:\d{1,3}(?:,\d{3})++|\d++)(?:\.\d*+)?|\.\d++)(?:[eE][-+]?\d{1,4})?"
_NUMBER = re.compile(
    rf"(?P<sign>[-+]?)\s*(?P<currency>[$€£¥])?\s*(?P<top>{_DECIMAL})(?:\s*/\s*(?P<bottom>{_DECIMAL}))?\s*(?P<percent>%)?",
    re.ASCII,
)
# Minus signs that are not ASCII's.
_MINUS = str.maketrans("\u2212\u2010\u2011\u2013", "----")


@dataclass(frozen=True)
class Numeric(Grader):
    """Equal numbers: integers, decimals, powers of ten as in 1e-3, quotients of two, thousands in commas.

    The answer must be the number and nothing more than a currency before it, a percent sign or one full stop
    behind it. It may differ by the larger of both tolerances.

    Attributes:
        absolute_tolerance: allowed difference.
        relative_tolerance: allowed difference as a fraction of the reference's size.
        percent: ``fraction`` takes 5% for 0.05, ``ignore`` for 5.
    """

    name = "numeric"
    version = 1
    absolute_tolerance: float = declare(Number(0.0, 1e300), 0.0)
    relative_tolerance: float = declare(Number(0.0, 1.0), 0.0)
    percent: str = declare(Choice(("fraction", "ignore")), "fraction")

    def number(self, text: str) -> Fraction | None:
        """The number that the whole text is; None where it is none."""
        if len(text) > _MAX_LENGTH:
            return None
        plain = unicodedata.normalize("NFKC", text).translate(_MINUS).replace("\u2044", "/").strip()
        found = _NUMBER.fullmatch(plain.removesuffix(".").rstrip())
        if found is None:
            return None
        top, bottom = _decimal(found["top"]), _decimal(found["bottom"] or "1")
        if top is None or not bottom:
            return None
        value = top / bottom
        if found["percent"] and self.percent == "fraction":
            value /= 100
        return -value if found["sign"] == "-" else value

    def check_reference(self, reference: str) -> None:
        """It must be a number."""
        super().check_reference(reference)
        if self.number(reference) is None:
            raise ValueError(f"reference must be a number, got {_shown(reference)}")

    def _matches(self, answer: str, reference: str) -> bool:
        said, wanted = self.number(answer), self.number(reference)
        if said is None or wanted is None:
            return False
        # As they are written: the float 0.1 is a little more than a tenth.
        absolute, relative = Fraction(repr(self.absolute_tolerance)), Fraction(repr(self.relative_tolerance))
        return abs(said - wanted) <= max(absolute, relative * abs(wanted))


def _decimal(text: str) -> Fraction | None:
    mantissa, _, exponent = text.replace(",", "").lower().partition("e")
    if exponent and abs(int(exponent)) > _MAX_EXPONENT:
        return None
    return Fraction(mantissa) * Fraction(10) ** int(exponent or 0)


def _shown(text: str, limit: int = 80) -> str:
    return repr(text if len(text) <= limit else text[:limit] + "...")
