"""What a scenario returns: figures with their Monte Carlo error."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from scipy import stats

# A promise counts as broken when replications at least so far from it have a smaller probability: three sigmas.
LEVEL = float(stats.norm.sf(3))
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
        """Whether the replications are compatible with the promise: an exact binomial test at `LEVEL`.

        Exact because a few replications (`--quick`) are far from normal: 3 of 10 is four standard errors
        above 5 %, and happens once in 87 times.
        """
        if self.nominal is None or self.wanted == "shown":
            return True
        count = round(self.value * self.replications)
        chance = stats.binom(self.replications, self.nominal)
        beyond = chance.sf(count - 1) if self.wanted == "at most" else chance.cdf(count)
        return bool(beyond >= LEVEL)


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
