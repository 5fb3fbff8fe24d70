"""Which arm serves a request."""

from __future__ import annotations

import pytest

from experiments.assignment import choose_variant, unit_position
from experiments.routing import Arm, Assignment, Route, RunningExperiment, assign

IN_FORCE = Arm(1, {"name": "full"}, "v0")
ARMS = (Arm(1, {"name": "full"}, "v0", 10, "full"), Arm(2, {"name": "confidence"}, "v1", 11, "short"))


def route(unit: str = "conversation", ranges: tuple[tuple[float, float], ...] = ((0, 0.5), (0.5, 1))) -> Route:
    experiment = RunningExperiment(id=7, phase_id=8, salt="salt", unit=unit, ranges=ranges, arms=ARMS)
    return Route(3, "arithmetic", "tiny", 0.0, 60.0, IN_FORCE, (experiment,))


def test_without_an_experiment_the_policy_in_force_serves() -> None:
    quiet = Route(3, "arithmetic", "tiny", 0.0, 60.0, IN_FORCE)
    assert assign(quiet, {"conversation": "c", "user": "u", "request": "r"}) == Assignment(IN_FORCE, None, "")


@pytest.mark.parametrize("unit", ["conversation", "user", "request"])
def test_the_experiments_unit_type_decides(unit: str) -> None:
    units = {"conversation": "c-1", "user": "u-1", "request": "r-1"}
    split = route(unit)
    found = assign(split, units)
    index = choose_variant(unit_position("salt", units[unit]), ((0, 0.5), (0.5, 1)))
    assert index is not None
    assert found == Assignment(ARMS[index], split.experiments[0], units[unit])


def test_both_arms_serve_and_a_unit_keeps_its_arm() -> None:
    split = route()
    first = [assign(split, {"conversation": f"c-{n}"}).arm.variant_key for n in range(50)]
    again = [assign(split, {"conversation": f"c-{n}"}).arm.variant_key for n in range(50)]
    assert set(first) == {"full", "short"}
    assert first == again


@pytest.mark.parametrize("units", [{}, {"conversation": None}, {"conversation": ""}, {"user": "u"}])
def test_a_unit_without_its_id_is_served_unexposed(units: dict[str, str | None]) -> None:
    assert assign(route(), units) == Assignment(IN_FORCE, None, "")


def test_a_unit_outside_the_coverage_is_served_unexposed() -> None:
    nobody = route(ranges=((0, 0), (0.5, 0.5)))
    assert assign(nobody, {"conversation": "c"}) == Assignment(IN_FORCE, None, "")
