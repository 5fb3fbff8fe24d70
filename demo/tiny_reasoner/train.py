"""Train the tiny reasoner: ``python -m demo.tiny_reasoner.train`` (see demo/README.md)."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from transformers.utils import logging as transformers_logging

from demo.tiny_reasoner.checkpoints import CHECKPOINTS, CheckpointEntry, read_index, write_index
from demo.tiny_reasoner.model import build_config, build_model, load_checkpoint, save_checkpoint
from demo.tiny_reasoner.task import Split, held_out_problems
from demo.tiny_reasoner.tokenizer import build_tokenizer
from demo.tiny_reasoner.training import Recipe, StepReport, train
from demo.tiny_reasoner.validation import exact_match, mean_loss

DEFAULT_SEED = 0
DEFAULT_SAVE_AT = (570, 645, 720, 945, 1020, 1100)
VALIDATION_PROMPTS = 240
VALIDATION_SEED = 1
# As measured: two threads. Other numbers change the order of float additions, and so the weights.
DEFAULT_THREADS = 2
# Where there is no terminal for a progress bar: a line every so many steps.
LOG_EVERY = 50


def _arguments(recipe: Recipe) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m demo.tiny_reasoner.train",
        description="Train the tiny reasoner from scratch and validate its checkpoints.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output", type=Path, default=CHECKPOINTS, help="directory of the checkpoints")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help="seed of weights and problems")
    parser.add_argument("--threads", type=int, default=DEFAULT_THREADS, help="CPU threads")
    parser.add_argument(
        "--save-at", type=int, nargs="+", default=list(DEFAULT_SAVE_AT), metavar="STEP", help="when to save"
    )
    arguments = parser.parse_args()
    if arguments.threads < 1:
        parser.error(f"--threads must be >= 1, got {arguments.threads}")
    for step in arguments.save_at:
        if not 1 <= step <= recipe.steps:
            parser.error(f"--save-at must be in [1, {recipe.steps}], got {step}")
    return arguments


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )


def _train(recipe: Recipe, seed: int, save_at: set[int], directory: Path, progress: Progress) -> list[Path]:
    """Train and save under ``directory``; the saved checkpoints by rising step."""
    tokenizer = build_tokenizer()
    model = build_model(build_config(), seed)
    bar = progress.add_task("training", total=recipe.steps, note="")
    saved = []

    def on_step(report: StepReport) -> None:
        note = f"loss {report.sequence_loss:.3f}, trial answers {report.branch_loss:.3f}"
        progress.update(bar, completed=report.step, note=note)
        if report.step % LOG_EVERY == 0 and not progress.console.is_terminal:
            progress.console.print(f"step {report.step}/{recipe.steps}: {note}")
        if report.step in save_at:
            saved.append(directory / f"step-{report.step:04d}")
            save_checkpoint(model, saved[-1])

    train(model, tokenizer, recipe, seed, on_step)
    return saved


def _validate(paths: list[Path], progress: Progress) -> list[CheckpointEntry]:
    """Measure the checkpoints as they were stored, rounding included."""
    tokenizer = build_tokenizer()
    problems = list(held_out_problems(VALIDATION_PROMPTS, VALIDATION_SEED, Split.TUNING))
    bar = progress.add_task("validating", total=len(paths), note="")
    entries = []
    for path in paths:
        model = load_checkpoint(path)
        em, loss = exact_match(model, tokenizer, problems), mean_loss(model, tokenizer, problems)
        entries.append(CheckpointEntry(int(path.name.removeprefix("step-")), path, em, loss))
        progress.update(bar, advance=1, note=f"{path.name}: EM {em:.3f}, loss {loss:.4f}")
    return entries


def _replace(target: Path, finished: Path, entries: list[CheckpointEntry]) -> None:
    """Put the finished checkpoints in place of those that the target's index names."""
    previous = read_index(target) if (target / "index.json").exists() else []
    for entry in previous:
        shutil.rmtree(entry.path)
    for entry in entries:
        shutil.rmtree(target / entry.path.name, ignore_errors=True)
        shutil.move(finished / entry.path.name, target / entry.path.name)
    write_index(entries, target)


def main() -> None:
    """Train, validate, and replace the checkpoints; an interrupted run changes nothing."""
    recipe = Recipe()
    arguments = _arguments(recipe)
    torch.set_num_threads(arguments.threads)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    arguments.output.mkdir(parents=True, exist_ok=True)
    console = Console()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=arguments.output, prefix=".training-") as name:
        with _progress(console) as progress:
            save_at = {*arguments.save_at, recipe.steps}
            paths = _train(recipe, arguments.seed, save_at, Path(name), progress)
            trained = time.monotonic()
            entries = _validate(paths, progress)
        _replace(arguments.output, Path(name), entries)
    for entry in entries:
        console.print(f"step {entry.step:5d}: EM {entry.validation_em:.3f}, loss {entry.validation_loss:.4f}")
    console.print(
        f"trained in {trained - started:.0f} s, validated in {time.monotonic() - trained:.0f} s "
        f"({os.path.relpath(arguments.output)})"
    )


if __name__ == "__main__":
    main()
