"""`exact_match`: equal after the normaliser, as trial answers are compared."""

from __future__ import annotations

from dataclasses import dataclass

from experiments.grading.base import Grader
from experiments.grading.normaliser import NORMALISER_VERSION, normalise_answer


@dataclass(frozen=True)
class ExactMatch(Grader):
    """Equal after the normaliser, whose version is the grader's."""

    name = "exact_match"
    version = NORMALISER_VERSION

    def _matches(self, answer: str, reference: str) -> bool:
        return normalise_answer(answer) == normalise_answer(reference)
