"""What the gateway costs: `python -m benchmarks.gateway [--peers PYTHON] [--rounds 5] [--out FILE]`.

Closed loops from a compiled load generator, through each gateway in turn, to a compiled upstream; one round after the
other, so that a machine that gets slower does so for all; medians over the rounds. `--peers` names the Python of an
environment with `litellm[proxy]==1.106.0` and `tensorzero==2026.6.0`. Needs a C compiler.

Curtail writes its records (admission and completion in Redis with the append-only file on, then PostgreSQL); the
others log nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress

from benchmarks.gateway import targets
from benchmarks.gateway.targets import Target

# By target, what each round found.
Found = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Load:
    """One kind of load.

    Attributes:
        chunks, interval_us: of the upstream's streams.
    """

    name: str
    connections: int
    seconds: float
    stream: bool = False
    chunks: int = 16
    interval_us: int = 0


LOADS = (
    Load("one", 1, 3.0),
    Load("many", 32, 4.0),
    Load("paced", 32, 5.0, stream=True, chunks=50, interval_us=20_000),
    Load("host", 32, 4.0),
    Load("open", 500, 8.0, stream=True, chunks=40, interval_us=100_000),
)


def main(arguments: Sequence[str]) -> int:
    """Run the loads and print the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description=__doc__)
    parser.add_argument("--peers", help="Python of an environment with litellm[proxy] and tensorzero")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=[load.name for load in LOADS])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    chosen = [load for load in LOADS if not options.only or load.name in options.only]
    folder = Path(tempfile.mkdtemp(prefix="curtail-gateway-"))
    try:
        targets.compile_programs(folder)
        found = {load.name: measure(load, options.peers, options.rounds, folder) for load in chosen}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    text = report(found, chosen, options.rounds)
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    return 0


def measure(load: Load, peers: str | None, rounds: int, folder: Path) -> Found:
    """What each target did in each round."""
    if load.name == "host":
        return measure_host(load, rounds, folder)
    found: Found = {}
    with contextlib.ExitStack() as running, Progress() as progress:
        direct = running.enter_context(targets.upstream(folder, load.chunks, load.interval_us))
        ways = [direct, running.enter_context(targets.curtail(folder, direct))]
        if peers:
            ways.append(running.enter_context(targets.litellm(folder, peers, direct)))
            ways.append(running.enter_context(targets.tensorzero(folder, peers, direct)))
        task = progress.add_task(load.name, total=rounds * len(ways))
        for number in range(rounds):
            for target in ways[number % len(ways) :] + ways[: number % len(ways)]:
                found.setdefault(target.name, []).append(run(load, target, folder))
                progress.advance(task)
    return found


def measure_host(load: Load, rounds: int, folder: Path) -> Found:
    """Requests through the engine host (scripted engine), and Celery tasks that do the same over the same Redis."""
    found: Found = {}
    with targets.engine_host(folder) as host, Progress() as progress:
        task = progress.add_task(load.name, total=2 * rounds)
        celery = [sys.executable, "-m", "benchmarks.gateway.celery_task", targets.broker_url(folder)]
        celery.append(str(folder / "model-scripted"))
        for _ in range(rounds):
            found.setdefault(host.name, []).append(run(load, host, folder))
            progress.advance(task)
            argv = [*celery, str(load.connections), str(load.seconds)]
            said = subprocess.run(argv, check=True, capture_output=True, text=True, cwd=targets.ROOT).stdout
            found.setdefault("celery task", []).append(json.loads(said))
            progress.advance(task)
    return found


def run(load: Load, target: Target, folder: Path) -> dict[str, Any]:
    """One load on one target."""
    (folder / "headers").write_text(target.headers)
    (folder / "body").write_text(targets.body(target, stream=load.stream))
    numbers = (target.port, target.path, load.connections, load.seconds, load.seconds / 4)
    argv = [str(folder / "load"), *map(str, numbers), str(folder / "headers"), str(folder / "body")]
    said = subprocess.run(argv, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(said.stdout)
    if result["errors"]:
        print(f"{target.name}: {said.stderr.strip()}", file=sys.stderr)
    return result


def report(found: Mapping[str, Found], loads: Sequence[Load], rounds: int) -> str:
    """The tables as Markdown."""
    lines = [f"Medians of {rounds} interleaved rounds on {platform.machine()}."]
    for load in loads:
        lines += ["", f"### {load.name}: {load.connections} connections" + (", streams" if load.stream else ""), ""]
        lines += _streams(found[load.name]) if load.stream else _wholes(found[load.name])
    return "\n".join(lines) + "\n"


def _wholes(found: Found) -> list[str]:
    lines = ["| target | answers/s | p50, us | p99, us | added p50, us | errors |", "|---|---:|---:|---:|---:|---:|"]
    base = _median(found["direct"], "whole", "p50") if "direct" in found else float("nan")
    for name, runs in found.items():
        p50, p99 = _median(runs, "whole", "p50"), _median(runs, "whole", "p99")
        rate = statistics.median(run["per_second"] for run in runs)
        errors = sum(run["errors"] for run in runs)
        lines.append(f"| {name} | {rate:,.0f} | {p50:,.0f} | {p99:,.0f} | {p50 - base:,.0f} | {errors} |")
    return lines


def _streams(found: Found) -> list[str]:
    lines = [
        "| target | streams/s | first text p50, us | added | transit p50, us | added | transit p99, us | added "
        "| errors |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    base = {key: _median(found["direct"], *key) for key in _STREAM_KEYS}
    for name, runs in found.items():
        cells = []
        for key in _STREAM_KEYS:
            value = _median(runs, *key)
            cells += [f"{value:,.0f}", f"{value - base[key]:,.0f}"]
        rate = statistics.median(run["per_second"] for run in runs)
        lines.append(f"| {name} | {rate:,.1f} | {' | '.join(cells)} | {sum(run['errors'] for run in runs)} |")
    return lines


_STREAM_KEYS = (("first", "p50"), ("transit", "p50"), ("transit", "p99"))


def _median(runs: Sequence[Mapping[str, Any]], of: str, quantile: str) -> float:
    values: list[float] = [run[of].get(quantile, float("nan")) for run in runs]
    return statistics.median(values)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
