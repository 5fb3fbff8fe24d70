"""`multiple_choice`: the same letter."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from experiments.grading.base import Grader
from experiments.grading.options import Letters, declare

# Around the letter: emphasis, mathematics, LaTeX's text commands and brackets.
_MARKUP = re.compile(r"\\(?:boxed|text|textbf|mathbf|mathrm)(?![A-Za-z])|[*_$`{}]")
_CHOICE = re.compile(
    r"(?:(?:the )?(?:(?:correct|final|best|right) )?(?:answer|option|choice)(?: is)?:? )?"
    r"(?:[(\[](?P<bracketed>[a-z])[)\]]|(?P<bare>[a-z]))"
    r"(?:[.:)].*+)?",
    re.DOTALL,
)
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True)
class MultipleChoice(Grader):
    """The same letter, in either case: ``B``, ``(b)``, ``**B.**``, ``B) the second``, ``the answer is B``.

    An answer that names no letter, several, or one that is not offered is incorrect.

    Attributes:
        letters: the letters that are offered, as in ``ABCD``.
    """

    name = "multiple_choice"
    version = 1
    letters: str = declare(Letters(), "ABCD")

    def letter(self, text: str) -> str | None:
        """The letter that the text chooses, in upper case; None where it chooses none of those offered."""
        plain = _MARKUP.sub("", unicodedata.normalize("NFKC", text)).lower()
        found = _CHOICE.fullmatch(_SPACE.sub(" ", plain).strip())
        if found is None:
            return None
        chosen = (found["bracketed"] or found["bare"]).upper()
        return chosen if chosen in self.letters else None

    def check_reference(self, reference: str) -> None:
        """It must be one of the letters."""
        super().check_reference(reference)
        if self.letter(reference) is None:
            shown = reference if len(reference) <= 80 else reference[:80] + "..."
            raise ValueError(f"reference must be one of the letters {self.letters}, got {shown!r}")

    def _matches(self, answer: str, reference: str) -> bool:
        return self.letter(answer) == self.letter(reference)
