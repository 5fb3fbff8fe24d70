"""`python -m demo.measure`: the table of demo/README.md, measured through the real engine.

Every policy of the demo on the last checkpoint, and full thinking on every checkpoint, over prompts of the
evaluation split, which neither training nor the choice of anything has seen.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from demo.measured import Measurement, read_measurements, write_measurements
from demo.scenario import AGGRESSIVE, CONSERVATIVE, FULL, MODEL_PROFILE, experiments
from demo.tiny_reasoner.checkpoints import CheckpointEntry, read_index
from demo.tiny_reasoner.task import Problem, Split, held_out_problems
from experiments.grading import grader_by_name
from experiments.policies import Policy, policy_from_spec
from workers.engines.base import Finished, GenerationRequest, GenerationResult, ThinkingProfile
from workers.engines.transformers_engine import TransformersEngine

README = Path(__file__).resolve().parent / "README.md"
BEGIN, END = "<!-- measured:begin -->", "<!-- measured:end -->"
DIFFICULTIES = (("all", 2, 7), ("2-3", 2, 3), ("4-5", 4, 5), ("6-7", 6, 7))
# Beside the demo's arms: what a fixed budget of about the same price does.
BUDGET: Mapping[str, Any] = {"name": "token_budget", "parameters": {"max_thinking_tokens": 128}}
SEED = 2026


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write demo/measured.json and the table in demo/README.md."""
    parser = argparse.ArgumentParser(prog="python -m demo.measure", description=main.__doc__)
    parser.add_argument("--prompts", type=int, default=1000, help="prompts per row over the last checkpoint")
    parser.add_argument("--checkpoint-prompts", type=int, default=1000, help="prompts per earlier checkpoint")
    parser.add_argument("--table-only", action="store_true", help="write the table from demo/measured.json again")
    options = parser.parse_args(arguments)
    if not options.table_only:
        rows = asyncio.run(_measure(options.prompts, options.checkpoint_prompts))
        write_measurements(rows, _about())
    _write_table(read_measurements())


async def _measure(prompts: int, checkpoint_prompts: int) -> list[Measurement]:
    *earlier, last = read_index()
    arms = {"full": FULL, "conservative": CONSERVATIVE, "aggressive": AGGRESSIVE, "budget 128": BUDGET}
    names = {arm.step: arm.key for arm in experiments()[1].arms}
    plan = [(last, name, spec, prompts) for name, spec in arms.items()]
    plan += [(entry, names.get(entry.step, "full"), FULL, checkpoint_prompts) for entry in reversed(earlier)]
    rows: list[Measurement] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task("measuring", total=sum(count for *_, count in plan))
        for entry, name, spec, count in plan:
            progress.update(bar, description=f"{name}, step {entry.step}")
            problems = list(held_out_problems(count, SEED, Split.EVALUATION))
            results = await _run(entry, policy_from_spec(spec), problems, lambda: progress.advance(bar))
            rows += _summaries(name, entry.step, problems, results)
    return rows


async def _run(
    entry: CheckpointEntry, policy: Policy, problems: Sequence[Problem], step: Any
) -> list[GenerationResult]:
    profile = ThinkingProfile(
        step_boundary=MODEL_PROFILE["step_boundary"],
        max_trial_tokens=MODEL_PROFILE["max_trial_tokens"],
        max_context_tokens=MODEL_PROFILE["max_context_tokens"],
    )
    engine = TransformersEngine(str(entry.path), profile, threads=max(1, (os.cpu_count() or 1) // 2))
    await engine.start()

    async def one(number: int, problem: Problem) -> GenerationResult:
        messages = [{"role": "user", "content": problem.prompt}]
        async for event in engine.generate(GenerationRequest(str(number), messages, policy)):
            if isinstance(event, Finished):
                step()
                return event.result
        raise RuntimeError("the engine ended without a result")

    try:
        return list(await asyncio.gather(*(one(n, p) for n, p in enumerate(problems))))
    finally:
        await engine.close()


def _summaries(
    name: str, step: int, problems: Sequence[Problem], results: Sequence[GenerationResult]
) -> list[Measurement]:
    grader = grader_by_name(MODEL_PROFILE["grader"])
    rows = []
    for difficulty, low, high in DIFFICULTIES:
        chosen = [(p, r) for p, r in zip(problems, results, strict=True) if low <= p.steps <= high]
        decoded = [result.tokens.decoded for _, result in chosen]
        rows.append(
            Measurement(
                arm=name,
                step=step,
                difficulty=difficulty,
                prompts=len(chosen),
                correct=sum(grader.grade(result.answer, problem.answer) for problem, result in chosen),
                decoded_tokens=statistics.fmean(decoded),
                decoded_sd=statistics.stdev(decoded),
                thinking=statistics.fmean(r.tokens.thinking for _, r in chosen),
                answer=statistics.fmean(r.tokens.answer for _, r in chosen),
                probe=statistics.fmean(r.tokens.probe for _, r in chosen),
                overrun=statistics.fmean(r.tokens.overrun for _, r in chosen),
                probes=statistics.fmean(r.probes for _, r in chosen),
            )
        )
    return rows


def _about() -> dict[str, object]:
    return {
        "command": "python -m demo.measure",
        "seed": SEED,
        "split": Split.EVALUATION.value,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def _write_table(rows: Sequence[Measurement]) -> None:
    before, _, rest = README.read_text().partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        sys.exit(f"{README.name} has no section between {BEGIN} and {END}")
    README.write_text(f"{before}{BEGIN}\n{_table(rows)}\n{END}{after}")


def _table(rows: Sequence[Measurement]) -> str:
    last = max(row.step for row in rows)
    by_key = {(row.arm, row.step, row.difficulty): row for row in rows}
    full = by_key["full", last, "all"]
    lines = [
        "| arm | checkpoint | prompts | EM | decoded tokens | saved | thinking / answer / probe / overrun | EM, "
        "tokens by assignments 2-3 | 4-5 | 6-7 |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row.difficulty != "all":
            continue
        parts = [by_key[row.arm, row.step, name] for name, *_ in DIFFICULTIES[1:]]
        kinds = " / ".join(f"{value:.1f}" for value in (row.thinking, row.answer, row.probe, row.overrun))
        split = " | ".join(f"{part.em:.3f}, {part.decoded_tokens:.0f}" for part in parts)
        saved = 1 - row.decoded_tokens / full.decoded_tokens
        lines.append(
            f"| {row.arm} | {row.step} | {row.prompts:,} | {row.em:.3f} | {row.decoded_tokens:.1f} "
            f"| {saved:.0%} | {kinds} | {split} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
