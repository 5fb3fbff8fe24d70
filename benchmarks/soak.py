"""Ten minutes at 70 % of capacity: `python -m benchmarks.soak [--minutes 10] [--out FILE]`.

A whole installation with the scripted engine. Capacity is what a closed loop gets through for some seconds, on the
same machine as the clients. Fails when the memory of a process of ours grows, a stream does not go back to its start,
or an answer is lost, stored twice or garbled.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.durability.audit import Audit, audit, repeated, settle
from benchmarks.durability.installation import Installation, installed
from benchmarks.durability.load import ClosedLoop, Load
from experiments import wire

SHARE = 0.7
CLIENTS = 48
CAPACITY_SECONDS = 15.0
SAMPLE_SECONDS = 5.0
DEADLINE_SECONDS = 30.0
SETTLED_WITHIN_SECONDS = 90.0
# Caches fill and pools grow in the beginning.
WARM_UP_SHARE = 0.3
# More growth than both, extrapolated over the whole soak by the median of all slopes, is a leak.
GROWTH_SHARE = 0.05
GROWTH_MEGABYTES = 4.0
PARTS = ("web", "inference worker", "background worker", "beat", "Redis")
SETTINGS = {"CURTAIL_SCRIPTED_STEP_MILLISECONDS": "5", "CURTAIL_ACCESS_LOG": "0"}


@dataclass
class Course:
    """What was measured over time.

    Attributes:
        at: seconds since the start.
        memory: by part, the megabytes that it alone holds.
        streams: by stream, its length.
    """

    at: list[float] = field(default_factory=list)
    memory: dict[str, list[float]] = field(default_factory=dict)
    streams: dict[str, list[int]] = field(default_factory=dict)


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The median of the slopes between all pairs of points (Theil, Sen): single outliers don't move it."""
    pairs = [(i, j) for i in range(len(xs)) for j in range(i + 1, len(xs)) if xs[j] > xs[i]]
    return statistics.median((ys[j] - ys[i]) / (xs[j] - xs[i]) for i, j in pairs)


def growth(at: Sequence[float], megabytes: Sequence[float]) -> float:
    """Megabytes that a part gained over the time after the warm-up."""
    first = int(len(at) * WARM_UP_SHARE)
    return slope(at[first:], megabytes[first:]) * (at[-1] - at[first])


def grows(at: Sequence[float], megabytes: Sequence[float]) -> bool:
    """Whether that is a leak."""
    return growth(at, megabytes) > max(GROWTH_MEGABYTES, GROWTH_SHARE * statistics.median(megabytes))


def main(arguments: Sequence[str]) -> int:
    """Run the soak and print the report; 1 when it fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    if not options.minutes > 0:
        parser.error(f"--minutes must be above 0, got {options.minutes}")
    with installed(DEADLINE_SECONDS, SETTINGS) as installation:
        capacity, load, course = asyncio.run(soak(installation, options.minutes * 60))
        settle(installation, SETTLED_WITHIN_SECONDS)
        sample(installation, course, course.at[-1] + SAMPLE_SECONDS)
        found = audit(installation, load.seen)
        dead = installation.query("SELECT count(*) FROM experiments_completion WHERE outcome <> 'answered'")[0][0]
    failures = judge(course, load, found)
    text = report(capacity, load, course, found, int(dead), failures)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    return 1 if failures else 0


async def soak(installation: Installation, seconds: float) -> tuple[float, Load, Course]:
    """Measure the capacity, then load; capacity in requests a second, and what was seen."""
    warm = ClosedLoop(installation.url, installation.token, CLIENTS)
    capacity = await warm.run(CAPACITY_SECONDS)
    load = Load(installation.url, installation.token, SHARE * capacity, seen=warm.seen)
    course, began = Course(), time.monotonic()
    sending = asyncio.create_task(load.run())
    try:
        while (elapsed := time.monotonic() - began) < seconds:
            await asyncio.to_thread(sample, installation, course, elapsed)
            await asyncio.sleep(SAMPLE_SECONDS)
    finally:
        load.stop()
        await sending
    return capacity, load, course


def sample(installation: Installation, course: Course, at: float) -> None:
    """Note memory and lengths now."""
    course.at.append(at)
    for name in PARTS:
        course.memory.setdefault(name, []).append(_megabytes(installation.part(name)))
    with installation.redis() as client:
        course.streams.setdefault("keys", []).append(client.dbsize())
        for label, pattern in (("requests", wire.request_stream(1)[:-1] + "*"), ("replies", wire.reply_stream("*"))):
            length = sum(client.xlen(key) for key in client.scan_iter(pattern, count=1000))
            course.streams.setdefault(label, []).append(length)
        course.streams.setdefault("ledger", []).append(client.xlen(wire.LEDGER_STREAM))


def _megabytes(process: psutil.Process) -> float:
    """What a process and its children hold alone."""
    total = 0
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += one.memory_full_info().uss
    return total / 2**20


def judge(course: Course, load: Load, found: Audit) -> list[str]:
    """What is wrong."""
    failures = [
        f"the memory of {name} grows by {growth(course.at, values):.1f} MB"
        for name, values in course.memory.items()
        if grows(course.at, values)
    ]
    failures += [f"{name} holds {values[-1]} entries at the end" for name, values in course.streams.items()
                 if name != "keys" and values[-1]]  # fmt: skip
    for what, count in (
        ("answers are not stored", len(found.unstored)),
        ("stored answers were not seen by their clients", found.unseen),
        ("admissions have no outcome", found.open_admissions),
        ("answers are garbled", len(found.garbled)),
        ("ids were given twice", len(repeated(load.seen))),
        ("units were served by two variants", found.mixed_units),
        ("requests were not answered", len(load.seen) - found.answered),
    ):
        if count:
            failures.append(f"{count} {what}")
    return failures


def report(
    capacity: float, load: Load, course: Course, found: Audit, not_answered: int, failures: Sequence[str]
) -> str:
    """The report as Markdown."""
    times = sorted(one.ended - one.began for one in load.seen if one.outcome == "answered")
    p50, p99 = times[len(times) // 2], times[int(len(times) * 0.99)]
    lines = [
        f"{course.at[-1] / 60:.1f} minutes at {load.rate:.0f} requests/s ({SHARE:.0%} of {capacity:.0f}); "
        f"{found.answered} answered, outcomes {dict(load.outcomes())}; latency p50 {p50 * 1000:.0f} ms, "
        f"p99 {p99 * 1000:.0f} ms.",
        "",
        "| part | MB after warm-up | MB at the end | slope over the time between |",
        "|---|---|---|---|",
    ]
    first = int(len(course.at) * WARM_UP_SHARE)
    for name, values in course.memory.items():
        lines.append(f"| {name} | {values[first]:.1f} | {values[-1]:.1f} | {growth(course.at, values):+.1f} MB |")
    lines += ["", "| stream | median | longest | at the end |", "|---|---|---|---|"]
    for name, lengths in course.streams.items():
        lines.append(f"| {name} | {statistics.median(lengths):.0f} | {max(lengths)} | {lengths[-1]} |")
    lines += [
        "",
        f"Answers lost {len(found.unstored)}, unseen {found.unseen}, garbled {len(found.garbled)}; completions with "
        f"another outcome {not_answered}; admissions without one {found.open_admissions}; units with two variants "
        f"{found.mixed_units}.",
        "",
        "FAILED: " + "; ".join(failures) if failures else "Passed.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
