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
# So many standard deviations stand for infinity.
_FAR = 9.0
# The density has features as fine as the smaller of the increments before and after a look. Panels of three of its
# standard deviations with eight nodes each integrate it to about 1e-9; there are never fewer than twenty panels.
_PANEL_SDS, _PANEL_NODES, _FEWEST_PANELS = 3.0, 8, 20
# Beyond this many standard deviations the density is below 1e-14: no node is needed there.
_EDGE = 8.0
# Looks nearer to each other would need too many nodes, and are one look to any purpose.
_SMALLEST_STEP = 1e-4


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
            looked: fractions of the information so far, ascending, in (0, 1], each at least a ten-thousandth above
                the one before.
        """
        times = tuple(looked)
        _check_information(times)
        increments = np.diff([0.0, *(self.spent(t) for t in times)])
        found: list[float] = []
        walk = _Walk.start(self.two_sided)
        for i, increment in enumerate(increments.tolist()):
            z = walk.critical(times[i], increment)
            found.append(z)
            if i + 1 < len(times):
                walk = walk.step(times[i], z, times[i + 1])
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
        for i, t in enumerate(times):
            z = constant / math.sqrt(t)
            crossed += walk.crossing(t, z)
            if i + 1 < looks:
                walk = walk.step(t, z, times[i + 1])
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

    def step(self, t: float, z: float, following: float) -> _Walk:
        """The walk after the look at time t with boundary z; `following` is the time of the next look."""
        sd, root = math.sqrt(t - self.time), math.sqrt(t)
        bound = min(z, _EDGE) * root
        low = -bound if self.two_sided else -_EDGE * root
        nodes, weights = _quadrature(low, bound, min(sd, math.sqrt(following - t)))
        distances = (nodes[:, None] - self.nodes[None, :]) / sd
        density = np.exp(-0.5 * distances * distances) @ self.mass / (sd * math.sqrt(2 * math.pi))
        return _Walk(self.two_sided, t, nodes, density * weights)


def _quadrature(low: float, high: float, sd: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes and weights of the composite Gauss-Legendre rule, fine enough for features of width `sd`."""
    panels = max(_FEWEST_PANELS, math.ceil((high - low) / (_PANEL_SDS * sd)))
    unit, weights = np.polynomial.legendre.leggauss(_PANEL_NODES)
    half = (high - low) / panels / 2
    middles = low + half * (2 * np.arange(panels) + 1)
    return (middles[:, None] + half * unit[None, :]).ravel(), np.tile(half * weights, panels)


def _check_information(values: tuple[float, ...]) -> None:
    if not values:
        raise ValueError("information must have at least 1 entry, got none")
    previous = 0.0
    for i, value in enumerate(values):
        if not previous < checks.finite(f"information[{i}]", value) <= 1:
            raise ValueError(f"information[{i}] must be in ({previous:g}, 1], got {value}")
        if value < previous * (1 + _SMALLEST_STEP):
            raise ValueError(
                f"information[{i}] must be at least {_SMALLEST_STEP:.2%} above the look before, "
                f"{previous * (1 + _SMALLEST_STEP):.8g}, got {value}: looks so close are one"
            )
        previous = value
