"""One spelling per answer: what decides the equality of trial answers."""

from __future__ import annotations

import re
import unicodedata

NORMALISER_VERSION = 1
_SPACE = re.compile(r"\s+")


def normalise_answer(text: str) -> str:
    """One spelling per answer (normaliser version 1).

    Unicode NFKC, case folded, runs of white space made one space, outer white space and one
    final full stop removed. It decides the equality of trial answers and exact match alike.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    collapsed = _SPACE.sub(" ", folded).strip()
    return collapsed.removesuffix(".").rstrip()
