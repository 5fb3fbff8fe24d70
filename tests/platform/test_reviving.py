"""What dies is started again, after a pause that grows while it keeps dying."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from curtail.processes import Supervisor, log_ready
from curtail.reviving import FIRST_PAUSE_S, LONGEST_PAUSE_S, WELL_AFTER_S, Reviver

SLEEPER = [sys.executable, "-uc", "import time; print('up'); time.sleep(600)"]


class Mortal:
    """Dies when told to."""

    name = "worker"

    def __init__(self) -> None:
        self.dead: str | None = None
        self.starts = 0
        self.refuses = False

    def death(self) -> str | None:
        return self.dead

    def start_again(self) -> None:
        self.starts += 1
        if self.refuses:
            raise OSError("no such program")
        self.dead = None


class Clock:
    """A clock that is set by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def mortal() -> Mortal:
    return Mortal()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def reviver(mortal: Mortal, clock: Clock, told: list[str]) -> Reviver:
    return Reviver([mortal], told.append, clock)


def pause_after_death(mortal: Mortal, clock: Clock, reviver: Reviver) -> float:
    """Let it die; seconds until it was started again."""
    mortal.dead, starts, began = "signal SIGKILL", mortal.starts, clock.now
    reviver.look()
    while mortal.starts == starts:
        clock.now += 0.05
        reviver.look()
    return clock.now - began


def test_what_lives_is_left_alone(mortal: Mortal, reviver: Reviver, told: list[str]) -> None:
    reviver.look()
    assert (mortal.starts, told) == (0, [])


def test_a_death_is_told_with_its_cause(mortal: Mortal, reviver: Reviver, told: list[str]) -> None:
    mortal.dead = "signal SIGKILL"
    reviver.look()
    assert told == ["worker ended unexpectedly (signal SIGKILL); it is started again in 0.1 s"]


def test_the_pause_grows_up_to_its_bound(mortal: Mortal, clock: Clock, reviver: Reviver) -> None:
    pauses = [pause_after_death(mortal, clock, reviver) for _ in range(10)]
    assert pauses[0] == pytest.approx(FIRST_PAUSE_S, abs=0.06)
    assert pauses[1:5] == pytest.approx([0.2, 0.4, 0.8, 1.6], abs=0.06)
    assert pauses[-1] == pytest.approx(LONGEST_PAUSE_S, abs=0.06)


def test_after_a_good_while_a_death_counts_as_the_first(mortal: Mortal, clock: Clock, reviver: Reviver) -> None:
    for _ in range(5):
        pause_after_death(mortal, clock, reviver)
    clock.now += WELL_AFTER_S
    assert pause_after_death(mortal, clock, reviver) == pytest.approx(FIRST_PAUSE_S, abs=0.06)


def test_what_cannot_be_started_is_tried_again(mortal: Mortal, clock: Clock, reviver: Reviver, told: list[str]) -> None:
    mortal.refuses = True
    pause_after_death(mortal, clock, reviver)
    assert told[-1] == "worker cannot be started: no such program"
    mortal.refuses = False
    clock.now += LONGEST_PAUSE_S
    reviver.look()
    clock.now += LONGEST_PAUSE_S
    reviver.look()
    assert mortal.dead is None


def test_a_killed_child_runs_anew_and_keeps_its_log(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        child = supervisor.start("sleeper", SLEEPER, ready=log_ready("up"))
        first = child.process
        first.send_signal(signal.SIGKILL)
        first.wait(10)
        assert child.death() == "signal SIGKILL"
        child.start_again()
        supervisor._wait_until_ready(child, lambda c: c.log.read_text() == "up\nup\n", 20.0)
        assert child.process.pid != first.pid
        assert supervisor.children == (child,)
    assert child.process.poll() is not None
