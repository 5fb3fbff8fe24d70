"""The view of keys, use cases and experiments that gateways hold in memory; decided without I/O. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from experiments.assignment import Slice, choose_variant, unit_position

# Looks come every minute; without one for so long, nobody would notice a harmful arm.
UNWATCHED_AFTER_SECONDS = 300.0

# Looks come every minute; without one for so long, nobody would notice a harmful arm.
UNWATCHED_AFTER_SECONDS = 300.0


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
    """A running experiment of a use case, in its newest phase.

    Attributes:
        ranges: [lo, hi) of each arm in ``arms``.
        arms: the control first.
        phase_started_at: seconds since the epoch.
        audit_every: one in so many requests is drawn for the audit; 0: none.
        shadow_share: share of the requests that get a shadow run.
        layer: its part of the layer that it shares with others; None: all units are its own.
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
    layer: Slice | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """A use case.

    Attributes:
        in_force: what serves outside experiments.
        experiments: those that run; no unit is in more than one of them.
        holdout: units that never enter an experiment.
        by_context: what serves outside experiments in some contexts, instead of ``in_force``.
        engine: of its model.
        retention: what becomes of its texts: keep, hash or drop.
    """

    use_case_id: int
    slug: str
    model: str
    temperature: float
    deadline_seconds: float
    in_force: Arm
    experiments: tuple[RunningExperiment, ...] = ()
    holdout: Slice | None = None
    by_context: Mapping[str, Arm] = field(default_factory=dict)
    engine: str = ""
    retention: str = "keep"

    @property
    def arms(self) -> tuple[Arm, ...]:
        """All that may serve its requests."""
        running = (arm for experiment in self.experiments for arm in experiment.arms)
        return (self.in_force, *self.by_context.values(), *running)

    def outside(self, context: str) -> Arm:
        """What serves a request of this context that no experiment takes."""
        return self.by_context.get(context, self.in_force)


@dataclass(frozen=True, slots=True)
class KeyGrant:
    """What an API key may do, and where its requests go.

    Attributes:
        use_case: where they go unless they name another.
        further: the others that they may name.
        any_use_case: whether they may name any.
    """

    use_case: str
    scopes: frozenset[str]
    further: frozenset[str] = frozenset()
    any_use_case: bool = False

    def reaches(self, use_case: str) -> bool:
        """Whether its requests may go there."""
        return self.any_use_case or use_case == self.use_case or use_case in self.further


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
        held_out: whether the unit is in the use case's holdout.
        forced: id of the experiment whose arm a tester asked for; 0: of none. Such a request counts nowhere.
    """

    arm: Arm
    experiment: RunningExperiment | None
    unit: str
    suspended: bool = False
    held_out: bool = False
    forced: int = 0


def assign(
    route: Route, units: Mapping[str, str | None], unwatched: frozenset[int] = frozenset(), context: str = ""
) -> Assignment:
    """Which arm serves a request.

    A unit without its id, outside the coverage or held out is served by the policy in force, unexposed. While nobody
    looks at an experiment, its control serves all its units, unexposed: a harmful arm would not be noticed.

    Args:
        route: the use case.
        units: id of the conversation, user and request, by unit type.
        unwatched: ids of the experiments without a recent look.
        context: of the request; may pick the policy in force.
    """
    for experiment in route.experiments:
        unit = units.get(experiment.unit)
        if not unit:
            continue
        if route.holdout is not None and route.holdout.holds(unit):
            return Assignment(route.outside(context), None, "", held_out=True)
        if experiment.layer is not None and not experiment.layer.holds(unit):
            continue
        index = choose_variant(unit_position(experiment.salt, unit), experiment.ranges)
        if index is None:
            continue
        if experiment.id in unwatched:
            return Assignment(_unexposed(experiment.arms[0]), None, "", suspended=True)
        return Assignment(experiment.arms[index], experiment, unit)
    return Assignment(route.outside(context), None, "")


def force(route: Route, experiment_id: int, variant: str) -> Assignment | None:
    """The arm that a tester asked for, unexposed; None when no running experiment of the use case has it."""
    for experiment in route.experiments:
        for arm in experiment.arms:
            if experiment.id == experiment_id and arm.variant_key == variant:
                return Assignment(replace(arm, variant_id=None), None, "", forced=experiment_id)
    return None


def _unexposed(arm: Arm) -> Arm:
    return replace(arm, variant_id=None, variant_key=None)
