"""Each part is killed under load: nothing lost, nothing twice, nothing mixed up, and service again within seconds."""

from __future__ import annotations

import signal
import time

import psutil
import pytest

from benchmarks.durability.audit import Audit
from tests.faults.conftest import RECOVERED_WITHIN_SECONDS, Fault, World, under_load

# Where requests can't be admitted, or the host that was answering is gone.
CLEAR_ERRORS = {"unavailable", "engine_error", "timeout"}


def whole(found: Audit) -> None:
    """What holds whatever happened."""
    assert found.answered > 0
    assert found.open_admissions == 0
    assert found.garbled == []
    assert found.mixed_units == 0


def recovered(fault: Fault) -> None:
    print(f"served again after {fault.recovery:.2f} s; {dict(fault.outcomes())}")  # pytest -rP shows it
    assert fault.recovery < RECOVERED_WITHIN_SECONDS


async def test_a_killed_inference_worker_is_replaced(world: World) -> None:
    before = world.audited()
    fault = await under_load(world, lambda: world.installation.kill("inference worker"))
    recovered(fault)
    assert fault.codes() <= {"engine_error"}, "all but the streams in mid-answer are answered"
    found = world.audited()
    whole(found)
    assert found.unstored == before.unstored
    assert found.unseen == before.unseen
    retried = world.installation.query("SELECT count(*) FROM experiments_completion WHERE deliveries > 1")[0][0]
    assert retried > 0, "the dead worker had something in hand"


async def test_a_killed_background_worker_is_not_noticed_by_clients(world: World) -> None:
    before = world.audited()
    fault = await under_load(world, lambda: world.installation.kill("background worker"))
    recovered(fault)
    assert fault.codes() == set()
    found = world.audited()
    whole(found)
    assert (found.unstored, found.unseen) == (before.unstored, before.unseen)


async def test_a_killed_gateway_breaks_its_connections_and_comes_back(world: World) -> None:
    before = world.audited()
    fault = await under_load(world, lambda: world.installation.kill("web"))
    recovered(fault)
    assert fault.codes() == {"broken"}
    found = world.audited()
    whole(found)
    assert found.unstored == before.unstored
    broken = sum(one.outcome == "broken" for one in fault.seen)
    assert found.unseen - before.unseen <= broken


async def test_redis_that_was_told_to_stop_has_lost_nothing(world: World) -> None:
    before = world.audited()
    fault = await under_load(world, lambda: world.installation.kill("Redis", signal.SIGTERM))
    recovered(fault)
    assert fault.codes() <= CLEAR_ERRORS
    found = world.audited()
    whole(found)
    assert found.unstored == before.unstored
    refused = sum(one.outcome != "answered" for one in fault.seen)
    assert found.unseen - before.unseen <= refused


async def test_a_killed_redis_loses_a_second_at_most(world: World) -> None:
    before = world.audited()
    began = time.monotonic()
    struck: list[float] = []

    def strike() -> None:
        struck.append(time.monotonic())
        world.installation.kill("Redis")

    fault = await under_load(world, strike)
    recovered(fault)
    assert fault.codes() <= CLEAR_ERRORS
    found = world.audited()
    whole(found)
    lost = sorted(set(found.unstored) - set(before.unstored))
    print(f"{len(lost)} answers lost")
    ended = {one.id: one.ended for one in fault.seen}
    # Redis writes its file every second; one that the disk holds up takes two.
    assert all(began < ended[name] and struck[0] - 2.0 < ended[name] < struck[0] + 0.5 for name in lost)


async def test_a_killed_postgresql_is_not_noticed_by_clients(world: World) -> None:
    before = world.audited()
    fault = await under_load(world, lambda: world.installation.kill("PostgreSQL"))
    recovered(fault)
    assert fault.codes() == set()
    found = world.audited()
    whole(found)
    assert (found.unstored, found.unseen) == (before.unstored, before.unseen)


@pytest.mark.parametrize("name", ["beat"])
def test_any_other_part_is_started_again(world: World, name: str) -> None:
    killed = world.installation.kill(name)
    deadline = time.monotonic() + RECOVERED_WITHIN_SECONDS
    while not _runs_anew(world, name, killed):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _runs_anew(world: World, name: str, killed: int) -> bool:
    try:
        return world.installation.part(name).pid != killed
    except (LookupError, psutil.Error):
        return False
