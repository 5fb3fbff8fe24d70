"""Which arm serves a request."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.assignment import Slice, bucket_ranges, choose_variant, layer_salt, unit_bucket, unit_position
from experiments.routing import Arm, Assignment, Route, RunningExperiment, assign, force

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


# -- layers, holdouts, contexts, forced variants -----------------------------------------------------

HELD = Slice("holdout", 0, 1_000)


def sharing(holdout: Slice | None = None) -> Route:
    """Two experiments, on the lower and the upper half of one layer."""
    salt = layer_salt("arithmetic", "prompts")
    lower = RunningExperiment(7, 70, "one", "user", ((0, 0.5), (0.5, 1)), ARMS, layer=Slice(salt, 0, 5_000))
    upper = RunningExperiment(9, 90, "two", "user", ((0, 0.5), (0.5, 1)), ARMS, layer=Slice(salt, 5_000, 10_000))
    return Route(3, "arithmetic", "tiny", 0.0, 60.0, IN_FORCE, (lower, upper), holdout, {"batch": ARMS[1]})


def test_experiments_of_a_layer_share_its_units() -> None:
    salt, seen = layer_salt("arithmetic", "prompts"), set()
    for unit in (f"u-{n}" for n in range(200)):
        found = assign(sharing(), {"user": unit}).experiment
        assert found is not None
        assert found.id == (7 if unit_bucket(salt, unit) < 5_000 else 9)
        seen.add(found.id)
    assert seen == {7, 9}


def test_variants_are_independent_of_the_layer() -> None:
    """Half of a layer's part gets each arm: its hash has another salt than the experiment's."""
    found = [assign(sharing(), {"user": f"u-{n}"}) for n in range(20_000)]
    short = [a.arm.variant_key == "short" for a in found if a.experiment is not None and a.experiment.id == 7]
    assert len(short) / len(found) == pytest.approx(0.5, abs=0.015)
    assert sum(short) / len(short) == pytest.approx(0.5, abs=0.02)


def test_a_unit_of_the_holdout_never_enters_an_experiment() -> None:
    units = [f"u-{n}" for n in range(2_000)]
    found = {unit: assign(sharing(HELD), {"user": unit}) for unit in units}
    held = {unit for unit in units if HELD.holds(unit)}
    assert {unit for unit, assignment in found.items() if assignment.held_out} == held
    assert all(found[unit] == Assignment(IN_FORCE, None, "", held_out=True) for unit in held)
    assert len(held) / len(units) == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize(("context", "arm"), [("batch", ARMS[1]), ("realtime", IN_FORCE), ("", IN_FORCE)])
def test_a_context_picks_the_policy_in_force(context: str, arm: Arm) -> None:
    assert assign(sharing(), {}, context=context) == Assignment(arm, None, "")


def test_in_an_experiment_the_context_changes_nothing() -> None:
    assert assign(sharing(), {"user": "u"}, context="batch") == assign(sharing(), {"user": "u"})


def test_a_forced_arm_serves_unexposed() -> None:
    found = force(sharing(), 9, "short")
    assert found is not None
    assert (found.arm.variant_key, found.arm.variant_id) == ("short", None)
    assert (found.experiment, found.unit, found.forced) == (None, "", 9)


@pytest.mark.parametrize(("experiment", "variant"), [(9, "other"), (8, "short")])
def test_an_arm_that_does_not_run_cannot_be_forced(experiment: int, variant: str) -> None:
    assert force(sharing(), experiment, variant) is None


# -- stickiness --------------------------------------------------------------------------------------

weights = st.lists(st.integers(1, 100), min_size=2, max_size=5)
ids = st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=30)


def of_weights(parts: list[int], coverage: float, without: int | None = None, layer: Slice | None = None) -> Route:
    """A route of one experiment; ``without`` is an arm that has been reverted."""
    ranges = bucket_ranges([part / sum(parts) for part in parts], coverage)
    arms = [Arm(1, {"name": "full"}, "v", number, f"arm-{number}") for number in range(len(parts))]
    staying = [number for number in range(len(parts)) if number != without]
    experiment = RunningExperiment(
        7,
        70,
        "salt",
        "user",
        tuple(ranges[number] for number in staying),
        tuple(arms[number] for number in staying),
        layer=layer,
    )
    return Route(3, "arithmetic", "tiny", 0.0, 60.0, IN_FORCE, (experiment,))


def arm_of(route_: Route, unit: str) -> str | None:
    return assign(route_, {"user": unit}).arm.variant_key


@settings(max_examples=60, deadline=None)
@given(weights, ids, st.lists(st.floats(0, 1), min_size=2, max_size=6).map(sorted))
def test_a_unit_that_is_in_keeps_its_variant_through_every_raise_of_coverage(
    parts: list[int], units: list[str], coverages: list[float]
) -> None:
    for unit in units:
        seen = [arm_of(of_weights(parts, coverage), unit) for coverage in coverages]
        entered = [variant for variant in seen if variant is not None]
        assert len(set(entered)) <= 1
        assert seen == [None] * (len(seen) - len(entered)) + entered


@settings(max_examples=60, deadline=None)
@given(weights.filter(lambda parts: len(parts) > 2), ids, st.floats(0, 1), st.data())
def test_a_siblings_revert_moves_no_other_unit(
    parts: list[int], units: list[str], coverage: float, data: st.DataObject
) -> None:
    gone = data.draw(st.integers(1, len(parts) - 1))
    for unit in units:
        before, after = (arm_of(of_weights(parts, coverage, without), unit) for without in (None, gone))
        assert after == (None if before == f"arm-{gone}" else before)


@settings(max_examples=60, deadline=None)
@given(weights, ids, st.integers(1, 9_999))
def test_a_unit_is_in_at_most_one_experiment_of_a_layer(parts: list[int], units: list[str], border: int) -> None:
    lower = of_weights(parts, 1.0, layer=Slice("layer", 0, border))
    upper = of_weights(parts, 1.0, layer=Slice("layer", border, 10_000))
    for unit in units:
        assert (arm_of(lower, unit) is None) != (arm_of(upper, unit) is None)


@settings(max_examples=60, deadline=None)
@given(ids, st.integers(0, 10_000), st.integers(0, 10_000))
def test_raising_a_holdout_lets_go_of_nobody(units: list[str], one: int, other: int) -> None:
    small, large = (Slice("salt", 0, share) for share in sorted((one, other)))
    assert {unit for unit in units if small.holds(unit)} <= {unit for unit in units if large.holds(unit)}
