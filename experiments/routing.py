"""The view of keys, use cases and experiments that gateways hold in memory; decided without I/O. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from experiments.assignment import choose_variant, unit_position


@dataclass(frozen=True, slots=True)
class Arm:
    """What serves a request: a policy (JSON form) and a checkpoint; ``variant_id`` None outside experiments."""

    checkpoint_id: int
    policy: Mapping[str, Any]
    policy_version: str
    variant_id: int | None = None
    variant_key: str | None = None


@dataclass(frozen=True, slots=True)
class RunningExperiment:
    """The running experiment of a use case, in its newest phase.

    Attributes:
        ranges: [lo, hi) of each arm in ``arms``.
        arms: the control first.
        phase_started_at: seconds since the epoch.
        audit_every: one in so many requests is drawn for the audit; 0: none.
        shadow_share: share of the requests that get a shadow run.
    """

    id: int
    phase_id: int
    salt: str
    unit: str
    ranges: tuple[tuple[float, float], ...]
    arms: tuple[Arm, ...]
    phase_started_at: float = 0.0
    audit_every: int = 0
    shadow_share: float = 0.0


@dataclass(frozen=True, slots=True)
class Route:
    """A use case.

    Attributes:
        retention: what becomes of its texts: keep, hash or drop.
    """

    use_case_id: int
    slug: str
    model: str
    temperature: float
    deadline_seconds: float
    in_force: Arm
    experiment: RunningExperiment | None
    retention: str = "keep"


@dataclass(frozen=True, slots=True)
class KeyGrant:
    """What an API key may do, and where its requests go."""

    use_case: str
    scopes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Routing:
    """Everything the gateway knows, as of one configuration version."""

    version: int
    keys: Mapping[str, KeyGrant] = field(default_factory=dict)
    routes: Mapping[str, Route] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Assignment:
    """What was decided for one request.

    Attributes:
        arm: what serves it.
        unit: the unit's id if it is exposed, else "".
        suspended: whether the experiment stands still, so that the control serves.
    """

    arm: Arm
    experiment: RunningExperiment | None
    unit: str
    suspended: bool = False


def assign(route: Route, units: Mapping[str, str | None], unwatched: frozenset[int] = frozenset()) -> Assignment:
    """Which arm serves a request.

    A unit without its id, or outside the coverage, is served by the policy in force, unexposed. While nobody looks
    at an experiment, its control serves all its units, unexposed: a harmful arm would not be noticed.

    Args:
        route: the use case.
        units: id of the conversation, user and request, by unit type.
        unwatched: ids of the experiments without a recent look.
    """
    experiment = route.experiment
    unit = units.get(experiment.unit) if experiment else None
    if experiment is None or not unit:
        return Assignment(route.in_force, None, "")
    index = choose_variant(unit_position(experiment.salt, unit), experiment.ranges)
    if index is None:
        return Assignment(route.in_force, None, "")
    if experiment.id in unwatched:
        control = experiment.arms[0]
        return Assignment(replace(control, variant_id=None, variant_key=None), None, "", suspended=True)
    return Assignment(experiment.arms[index], experiment, unit)
