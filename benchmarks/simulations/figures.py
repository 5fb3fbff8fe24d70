"""What a scenario returns: figures with their Monte Carlo error."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Wanted = Literal["at most", "at least", "shown"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One simulated figure.

    Attributes:
        what: what was simulated, in words.
        value: the figure: a share of the replications, or a mean.
        error: its Monte Carlo standard error.
        nominal: what is promised; None where nothing is.
        wanted: whether it must be at most or at least nominal, or is only shown (a known weakness, a comparison).
        replications: simulated experiments.
    """

    what: str
    value: float
    error: float
    nominal: float | None
    wanted: Wanted
    replications: int

    @property
    def bound(self) -> float | None:
        """One-sided 95 % bound of a share that was exactly 0 or 1 ("rule of three"); None for other figures.

        Its standard error would be 0, which says too much: Clopper and Pearson (Biometrika 1934), 0.05^(1/n).
        """
        if self.error or self.replications < 2 or self.value not in (0.0, 1.0):
            return None
        tail = math.pow(0.05, 1 / self.replications)
        return tail if self.value else 1 - tail

    @property
    def holds(self) -> bool:
        """Whether the promise is kept within three Monte Carlo standard errors."""
        if self.nominal is None or self.wanted == "shown":
            return True
        slack = 3 * math.sqrt(self.nominal * (1 - self.nominal) / self.replications)
        return self.value <= self.nominal + slack if self.wanted == "at most" else self.value >= self.nominal - slack


def share(what: str, count: int, replications: int, nominal: float | None, wanted: Wanted) -> Figure:
    """The figure of a count of replications."""
    p = count / replications
    return Figure(what, p, math.sqrt(p * (1 - p) / replications), nominal, wanted, replications)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One simulation.

    Attributes:
        name: short and stable; it seeds the random numbers.
        title: of its table.
        text: what is simulated, and what to read from it.
        run: from a seed and a number of replications to figures.
        replications: of the full suite; the quick one takes a fiftieth.
    """

    name: str
    title: str
    text: str
    run: Callable[[int, int], list[Figure]]
    replications: int
