"""Grading: what counts as the answer, when two answers are equal, and exact match (EM). Pure.

Every grader has a name and a version; both are stored with every label, because the grader
alone moves scores.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass

NORMALISER_VERSION = 1
MAX_REFERENCE_LENGTH = 10_000
_SPACE = re.compile(r"\s+")


def normalise_answer(text: str) -> str:
    """One spelling per answer (normaliser version 1).

    Unicode NFKC, case folded, runs of white space made one space, outer white space and one
    final full stop removed. It decides the equality of trial answers and exact match alike.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    collapsed = _SPACE.sub(" ", folded).strip()
    return collapsed.removesuffix(".").rstrip()


def extract_answer(text: str, pattern: str = "") -> str:
    """The answer within the text after thinking.

    Args:
        text: what the model wrote after its thinking.
        pattern: a regular expression; its first group (or the whole match) of the LAST match is the
            answer. Empty: the whole text. No match, or none of the group: an empty answer.
    """
    if not pattern:
        return text.strip()
    matches = list(re.finditer(pattern, text))
    if not matches:
        return ""
    last = matches[-1]
    return ((last.group(1) or "") if last.re.groups else last.group(0)).strip()


def _exact_match(answer: str, reference: str) -> bool:
    return normalise_answer(answer) == normalise_answer(reference) != ""


@dataclass(frozen=True, slots=True)
class Grader:
    """A named, versioned judge of correctness."""

    name: str
    version: int
    judge: Callable[[str, str], bool]

    def grade(self, answer: str, reference: str) -> bool:
        """Whether ``answer`` matches ``reference``.

        Raises:
            ValueError: the reference is empty, so nothing could ever match it.
        """
        if not normalise_answer(reference):
            raise ValueError(f"reference must not be empty, got {reference!r}")
        return self.judge(answer, reference)


GRADERS: Mapping[str, Grader] = {
    grader.name: grader for grader in (Grader("exact_match", NORMALISER_VERSION, _exact_match),)
}


def grader_by_name(name: str) -> Grader:
    """The grader of that name; ValueError lists the known ones."""
    try:
        return GRADERS[name]
    except KeyError:
        raise ValueError(f"grader must be one of {', '.join(GRADERS)}, got {name!r}") from None
