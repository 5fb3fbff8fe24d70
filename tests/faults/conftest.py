"""One installation for all fault tests, a constant load, and the fault in its midst."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from benchmarks.durability.audit import Audit, audit, repeated, settle
from benchmarks.durability.installation import Installation, installed
from benchmarks.durability.load import Load, Seen

DEADLINE_SECONDS = 12.0
RATE = 15.0
RECOVERED_WITHIN_SECONDS = 10.0
BEFORE_SECONDS = 2.0
AFTER_SECONDS = 2.0
# The deadline, what is waited past it before a request counts as lost, and a turn of the task that says so.
SETTLED_WITHIN_SECONDS = DEADLINE_SECONDS + 10 + 20
SETTINGS = {
    "CURTAIL_SCRIPTED_STEP_MILLISECONDS": "20",
    # A guardrail that reverts an arm for the errors made here would end the experiment.
    "CURTAIL_LOOK_EVERY_SECONDS": "3600",
    "CURTAIL_ACCESS_LOG": "0",
}


@dataclass
class World:
    """The installation, and all that its clients have ever seen."""

    installation: Installation
    seen: list[Seen] = field(default_factory=list)

    def audited(self) -> Audit:
        """Everything so far, once it has settled."""
        settle(self.installation, SETTLED_WITHIN_SECONDS)
        return audit(self.installation, self.seen)


@dataclass
class Fault:
    """What happened around one fault.

    Attributes:
        seen: by the clients of this load.
        recovery: seconds from the fault to the end of the first answer to a request that was sent after it.
    """

    seen: list[Seen]
    recovery: float

    def outcomes(self) -> Counter[str]:
        """How many ended how, errors by code."""
        return Counter(one.code or one.outcome for one in self.seen)

    def codes(self) -> set[str]:
        """How requests ended that were not answered."""
        return set(self.outcomes()) - {"answered"}


@pytest.fixture(scope="package")
def world() -> Iterator[World]:
    """A running installation."""
    with installed(DEADLINE_SECONDS, SETTINGS) as installation:
        yield World(installation)


async def under_load(world: World, strike: Callable[[], object]) -> Fault:
    """Send a constant load, let the fault happen in its midst, go on until requests are answered again."""
    installation = world.installation
    load = Load(installation.url, installation.token, RATE)
    async with _sending(load):
        await asyncio.sleep(BEFORE_SECONDS)
        assert load.outcomes()["answered"], f"nothing was answered before the fault: {load.outcomes()}"
        await asyncio.to_thread(strike)
        struck = time.monotonic()
        recovered = await _first_answer(load, struck)
        await asyncio.sleep(AFTER_SECONDS)
    world.seen += load.seen
    assert repeated(world.seen) == []
    return Fault(load.seen, recovered - struck)


@asynccontextmanager
async def _sending(load: Load) -> AsyncIterator[None]:
    sending = asyncio.create_task(load.run())
    try:
        yield
    finally:
        load.stop()
        await sending


async def _first_answer(load: Load, after: float) -> float:
    """When the first request that was sent later had been answered."""
    while not (ends := [one.ended for one in load.seen if one.began > after and one.outcome == "answered"]):
        assert time.monotonic() - after < 60, f"no recovery within 60 s: {load.outcomes()}"
        await asyncio.sleep(0.05)
    return min(ends)
