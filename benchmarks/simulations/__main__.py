"""Runs the scenarios, keeps what is finished, and writes the report.

python -m benchmarks.simulations [--quick] [--only NAME ...] [--out docs/simulations.md]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import zlib
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.simulations import coverage, decisions, details, peeking
from benchmarks.simulations.figures import Figure, Scenario

ROOT = Path(__file__).resolve().parents[2]
SCENARIOS = [*peeking.SCENARIOS, *details.SCENARIOS, *coverage.SCENARIOS, *decisions.SCENARIOS]
QUICK = 50
# Part of every seed: another number repeats everything with other random numbers.
SEED = 20_261


def main(arguments: list[str]) -> int:
    """Run what is asked for; 1 when a promise is not kept."""
    parser = argparse.ArgumentParser(prog="make simulate", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a fiftieth of the replications; writes no report")
    parser.add_argument("--only", nargs="+", choices=[scenario.name for scenario in SCENARIOS])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "simulations.md")
    options = parser.parse_args(arguments)
    chosen = [scenario for scenario in SCENARIOS if not options.only or scenario.name in options.only]
    console = Console(highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    found = {}
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("simulating", total=len(chosen))
        for scenario in chosen:
            progress.update(task, description=scenario.name)
            found[scenario.name] = run(scenario, options.quick)
            progress.advance(task)
    broken = [figure for figures in found.values() for figure in figures if not figure.holds]
    for figure in broken:
        console.print(f"[red]not kept[/red] {figure.what}: {figure.value:.4f} against {figure.nominal}")
    if not options.quick and not options.only:
        options.out.write_text(report(found), encoding="utf-8")
        console.print(f"written: {options.out}")
    return 1 if broken else 0


def run(scenario: Scenario, quick: bool) -> list[Figure]:
    """The figures of a scenario; those of an earlier full run are taken from the cache."""
    replications = max(10, scenario.replications // QUICK) if quick else scenario.replications
    seed = SEED + zlib.crc32(scenario.name.encode())
    cache = ROOT / ".curtail" / "simulations" / f"{scenario.name}-{seed}-{replications}.json"
    if cache.exists():
        return [Figure(**item) for item in json.loads(cache.read_text(encoding="utf-8"))]
    figures = scenario.run(seed, replications)
    if not quick:
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_text(json.dumps([dataclasses.asdict(figure) for figure in figures]), encoding="utf-8")
    return figures


def report(found: dict[str, list[Figure]]) -> str:
    """The report as Markdown."""
    lines = [
        "# Simulated error rates, coverage and power",
        "",
        f"Written by `make simulate` (seed {SEED}). Every figure is followed by its Monte Carlo standard error; where",
        "no run (or every run) counted, by the one-sided 95 % bound that so many runs allow.",
        "A promise is kept unless an exact binomial test rejects it at three sigmas (p < .00135); *shown* marks a",
        "known weakness or a comparison, for which nothing is promised.",
    ]
    for scenario in SCENARIOS:
        lines += ["", f"## {scenario.title}", "", scenario.text, ""]
        lines += ["| what | figure | promised | runs |", "|---|---:|---|---:|"]
        lines += [_row(figure) for figure in found[scenario.name]]
    return "\n".join(lines) + "\n"


def _row(figure: Figure) -> str:
    digits = 0 if figure.value > 10 else 4
    value = f"{figure.value:,.{digits}f}" + (f" ± {figure.error:,.{digits}f}" if figure.error else "")
    if figure.bound is not None:
        value += f" ({'≥' if figure.value else '≤'} {figure.bound:.4f})"
    promised = "shown" if figure.wanted == "shown" else f"{figure.wanted} {figure.nominal:g}"
    return (
        f"| {figure.what} | {value} | {promised}{'' if figure.holds else ' (**not kept**)'} | {figure.replications:,} |"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
