"""What dies is started again: after a pause that grows while it keeps dying."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0
# What has run for so long is taken as well: its next death counts as its first.
WELL_AFTER_S = 30.0
POLL_S = 0.05


class Mortal(Protocol):
    """Something that runs until it dies, and can be started again."""

    name: str

    def death(self) -> str | None:
        """How it has ended; None while it runs."""

    def start_again(self) -> None:
        """Start it anew."""


@dataclass(slots=True)
class _Life:
    """One of them: since when it runs, how often it died since it was well, when it is to be started again."""

    mortal: Mortal
    began: float
    deaths: int = 0
    due: float | None = None


class Reviver:
    """Starts again what dies. Use it from the thread that started them: on Linux they are signalled when it ends.

    Args:
        mortals: what is to run.
        tell: takes one line about each death.
        clock: seconds, as ``time.monotonic``.
    """

    def __init__(
        self, mortals: Sequence[Mortal], tell: Callable[[str], object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tell = tell
        self._clock = clock
        self._lives = [_Life(mortal, clock()) for mortal in mortals]

    def look(self) -> None:
        """Notice who has died, start whose pause is over."""
        for life in self._lives:
            if life.due is None:
                self._notice(life)
            elif life.due <= self._clock():
                self._revive(life)

    def keep_running(self) -> NoReturn:
        """Look until interrupted."""
        while True:
            self.look()
            time.sleep(POLL_S)

    def _notice(self, life: _Life) -> None:
        how = life.mortal.death()
        if how is None:
            return
        now = self._clock()
        life.deaths = 1 if now - life.began >= WELL_AFTER_S else life.deaths + 1
        pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (life.deaths - 1))
        life.due = now + pause
        self._tell(f"{life.mortal.name} ended unexpectedly ({how}); it is started again in {pause:g} s")

    def _revive(self, life: _Life) -> None:
        life.due, life.began = None, self._clock()
        try:
            life.mortal.start_again()
        except OSError as error:
            self._tell(f"{life.mortal.name} cannot be started: {error}")
