"""Each part is killed under load: nothing lost, nothing twice, nothing mixed up, and service again within seconds."""

from __future__ import annotations

import os
import signal
import time

import psutil
import pytest

from benchmarks.durability.audit import Audit
from tests.faults.conftest import RECOVERED_WITHIN_SECONDS, Fault, World, under_load

# Where requests can't be admitted, or the host that was answering is gone.
LOST_SECONDS = 1.0
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


async def test_a_killed_redis_has_lost_nothing(world: World) -> None:
    before = world.audited()
    fault = await under_load(world, lambda: world.installation.kill("Redis"))
    recovered(fault)
    assert fault.codes() <= CLEAR_ERRORS
    found = world.audited()
    whole(found)
    # What Redis has answered it has handed to the kernel, which outlives it.
    assert found.unstored == before.unstored


async def test_a_power_failure_loses_the_last_second_of_redis_at_most(world: World) -> None:
    before = world.audited()
    struck: list[float] = []

    def strike() -> None:
        """Cut the append-only file to what it was a second before Redis died; nobody revives it meanwhile.

        The worst case: nothing of that second has reached PostgreSQL.
        """
        installation = world.installation
        supervisor, writer = psutil.Process(installation.process.pid), installation.part("background worker")
        writer.suspend()
        file = installation.home / "redis" / "appendonly.aof"
        size = file.stat().st_size
        time.sleep(LOST_SECONDS)
        supervisor.suspend()
        try:
            installation.kill("Redis")
            struck.append(time.monotonic())
            installation.wait_until_dead("Redis")
            assert file.stat().st_size > size
            os.truncate(file, size)
        finally:
            supervisor.resume()
            writer.resume()

    fault = await under_load(world, strike)
    recovered(fault)
    assert fault.codes() <= CLEAR_ERRORS
    found = world.audited()
    whole(found)
    lost = sorted(set(found.unstored) - set(before.unstored))
    print(f"{len(lost)} answers of {LOST_SECONDS:g} s lost")
    ended = {one.id: one.ended for one in fault.seen}
    assert lost, "the second that was cut off held answers"
    assert all(struck[0] - LOST_SECONDS - 0.5 < ended[name] < struck[0] + 0.5 for name in lost)


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
