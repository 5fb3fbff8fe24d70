"""Group-sequential tests: few looks, planned beforehand, cheaper than looking all the time.

Boundaries by recursive numerical integration: Armitage, McPherson and Rowe (JRSS A 1969); Jennison and Turnbull, Group
Sequential Methods (2000), chapter 19. Spending functions: Lan and DeMets (Biometrika 1983).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from experiments.statistics import checks

Spending = Literal["obrien_fleming", "pocock"]
_NODES = 160
# So many standard deviations stand for infinity.
_FAR = 9.0


@dataclass(frozen=True, slots=True)
class GroupSequentialPlan:
    """A test at planned looks.

    Attributes:
        information: fraction of the final information at each look, ascending, the last one 1.
        alpha: error probability over all looks, in (0, 1), or (0, .5) one-sided.
        two_sided: rejects for |z| beyond the boundary, otherwise for z above it.
        spending: how much of alpha is spent by when.
    """

    information: tuple[float, ...]
    alpha: float = 0.05
    two_sided: bool = True
    spending: Spending = "obrien_fleming"

    def __post_init__(self) -> None:
        _check_information(self.information)
        if self.information[-1] != 1:
            raise ValueError(f"information must end at 1, got {self.information[-1]}")
        checks.fraction("alpha", self.alpha, high=1.0 if self.two_sided else 0.5)
        if self.spending not in ("obrien_fleming", "pocock"):
            raise ValueError(f"spending must be obrien_fleming or pocock, got {self.spending!r}")

    def spent(self, fraction: float) -> float:
        """Cumulative alpha that may be spent by a fraction of the information, in (0, 1]."""
        if not 0 < checks.finite("fraction", fraction) <= 1:
            raise ValueError(f"fraction must be in (0, 1], got {fraction}")
        sides = 2 if self.two_sided else 1
        if self.spending == "pocock":
            return self.alpha * math.log1p((math.e - 1) * fraction)
        tail = float(stats.norm.isf(self.alpha / sides / 2))
        return 2 * sides * float(stats.norm.sf(tail / math.sqrt(fraction)))

    def boundaries(self) -> tuple[float, ...]:
        """The critical z at each planned look."""
        return self.boundaries_at(self.information)

    def boundaries_at(self, looked: Sequence[float]) -> tuple[float, ...]:
        """The critical z at each look that was really taken: earlier or later than planned costs nothing.

        Args:
            looked: fractions of the information so far, ascending, in (0, 1].
        """
        times = tuple(looked)
        _check_information(times)
        increments = np.diff([0.0, *(self.spent(t) for t in times)])
        found: list[float] = []
        walk = _Walk.start(self.two_sided)
        for t, increment in zip(times, increments, strict=True):
            z = walk.critical(t, float(increment))
            found.append(z)
            walk = walk.step(t, z)
        return tuple(found)

    def rejects(self, z: Sequence[float], looked: Sequence[float]) -> bool:
        """Whether any of the statistics so far is beyond its boundary.

        Args:
            z: the statistic at each look, about standard normal under the null.
            looked: fraction of the information at each.
        """
        if len(z) != len(looked):
            raise ValueError(f"z must have {len(looked)} entries like looked, got {len(z)}")
        values = [abs(value) if self.two_sided else value for value in z]
        return any(value >= bound for value, bound in zip(values, self.boundaries_at(looked), strict=True))


def obrien_fleming(looks: int, alpha: float = 0.05, *, two_sided: bool = True) -> tuple[float, ...]:
    """The classical O'Brien-Fleming (Biometrics 1979) boundaries at equally spaced looks: z_k = C sqrt(K/k)."""
    checks.positive("looks", checks.count("looks", looks))
    checks.fraction("alpha", alpha, high=1.0 if two_sided else 0.5)
    times = [(k + 1) / looks for k in range(looks)]

    def excess(constant: float) -> float:
        walk, crossed = _Walk.start(two_sided), 0.0
        for t in times:
            z = constant / math.sqrt(t)
            crossed += walk.crossing(t, z)
            walk = walk.step(t, z)
        return crossed - alpha

    constant = float(optimize.brentq(excess, 0.5, 8.0, xtol=1e-10))
    return tuple(constant / math.sqrt(t) for t in times)


@dataclass(frozen=True, slots=True)
class _Walk:
    """Brownian motion that has not crossed yet: nodes, and density times quadrature weight at each."""

    two_sided: bool
    time: float
    nodes: NDArray[np.float64]
    mass: NDArray[np.float64]

    @classmethod
    def start(cls, two_sided: bool) -> _Walk:
        return cls(two_sided, 0.0, np.zeros(1), np.ones(1))

    def crossing(self, t: float, z: float) -> float:
        """Probability of crossing at time t for the first time."""
        sd, bound = math.sqrt(t - self.time), z * math.sqrt(t)
        beyond = stats.norm.sf((bound - self.nodes) / sd)
        if self.two_sided:
            beyond = beyond + stats.norm.cdf((-bound - self.nodes) / sd)
        return float(np.dot(self.mass, beyond))

    def critical(self, t: float, probability: float) -> float:
        """The z at time t that is crossed for the first time with this probability."""
        if probability <= self.crossing(t, _FAR):
            return _FAR
        return float(optimize.brentq(lambda z: self.crossing(t, z) - probability, -_FAR, _FAR, xtol=1e-10))

    def step(self, t: float, z: float) -> _Walk:
        bound = z * math.sqrt(t)
        low = -bound if self.two_sided else -_FAR * math.sqrt(t)
        unit, weights = np.polynomial.legendre.leggauss(_NODES)
        nodes = (bound - low) / 2 * unit + (bound + low) / 2
        sd = math.sqrt(t - self.time)
        density = stats.norm.pdf((nodes[:, None] - self.nodes[None, :]) / sd) @ self.mass / sd
        return _Walk(self.two_sided, t, nodes, density * weights * (bound - low) / 2)


def _check_information(values: tuple[float, ...]) -> None:
    if not values:
        raise ValueError("information must have at least 1 entry, got none")
    previous = 0.0
    for i, value in enumerate(values):
        if not previous < checks.finite(f"information[{i}]", value) <= 1:
            raise ValueError(f"information[{i}] must be in ({previous:g}, 1], got {value}")
        previous = value
