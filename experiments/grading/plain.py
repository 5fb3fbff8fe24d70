"""`plain`: equal character by character, but for what the options take away.

The options and their order are those of the metric exact_match of the library evaluate
(https://huggingface.co/spaces/evaluate-metric/exact_match), so that scores can be compared. The one
difference: white space around the text does not count.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass

from experiments.grading.base import Grader
from experiments.grading.options import Flag, Patterns, declare

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_DIGITS = str.maketrans("", "", string.digits)


@dataclass(frozen=True)
class Plain(Grader):
    """Equal text, after the options; ASCII punctuation and digits only.

    Attributes:
        ignore_case: compare in lower case.
        ignore_punctuation: remove punctuation.
        ignore_numbers: remove digits.
        regexes_to_ignore: remove what these match, one after the other and before all else.
    """

    name = "plain"
    version = 1
    ignore_case: bool = declare(Flag(), False)
    ignore_punctuation: bool = declare(Flag(), False)
    ignore_numbers: bool = declare(Flag(), False)
    regexes_to_ignore: tuple[str, ...] = declare(Patterns(), ())

    @property
    def isolated(self) -> bool:
        """With expressions of a user's own: one that backtracks without end must hold up nothing."""
        return bool(self.regexes_to_ignore)

    def normal_form(self, text: str) -> str:
        """What is compared."""
        for pattern in self.regexes_to_ignore:
            text = re.sub(pattern, "", text)
        if self.ignore_case:
            text = text.lower()
        if self.ignore_punctuation:
            text = text.translate(_PUNCTUATION)
        if self.ignore_numbers:
            text = text.translate(_DIGITS)
        return text.strip()

    def check_reference(self, reference: str) -> None:
        """Something must be left of it; what expressions leave, only the judgement itself tells."""
        super().check_reference(reference)
        if not self.isolated:
            self._check_left(self.normal_form(reference), reference)

    def _matches(self, answer: str, reference: str) -> bool:
        wanted = self.normal_form(reference)
        self._check_left(wanted, reference)
        return self.normal_form(answer) == wanted

    @staticmethod
    def _check_left(normal: str, reference: str) -> None:
        if not normal:
            raise ValueError(f"reference must have something left after the grader's options, got {reference!r}")
