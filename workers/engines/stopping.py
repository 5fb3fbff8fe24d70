"""The client's own stop strings, in a text that comes piece by piece. Pure."""

from __future__ import annotations

from collections.abc import Sequence


class StopScanner:
    """Finds the first stop string; a text that may turn out to begin one is held back.

    What it finds does not depend on how the text is cut into pieces: the string that is complete first counts, and of
    those that end at one place the longest.

    Args:
        strings: the stop strings, none of them empty.

    Attributes:
        found: whether one has come; nothing of it, and nothing after it, is given out.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self.found = False
        self._strings = tuple(strings)
        self._held = ""

    def take(self, text: str) -> str:
        """The text that is certain now."""
        if self.found or not self._strings:
            return "" if self.found else text
        text, self._held = self._held + text, ""
        places = [(at + len(stop), at) for stop in self._strings if (at := text.find(stop)) >= 0]
        if places:
            self.found = True
            return text[: min(places)[1]]
        keep = self._undecided(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def release(self) -> str:
        """What was held, now that nothing more comes."""
        held, self._held = self._held, ""
        return held

    def _undecided(self, text: str) -> int:
        """Length of the longest end of the text that could begin a stop string."""
        longest = min(max(map(len, self._strings)) - 1, len(text))
        return next((n for n in range(longest, 0, -1) if any(s.startswith(text[-n:]) for s in self._strings)), 0)
