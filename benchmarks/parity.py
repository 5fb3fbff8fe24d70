"""Whether two engines and the policies alone agree: `python -m benchmarks.parity [--prompts 512] [--out FILE]`.

Needs vLLM (`make test-vllm` installs it into .venv-vllm). For each policy, on both engines, float32 and greedy:

- replay: the policy fed with the signals recorded in the same run must decide at exactly the same step;
- runs: two separate runs, one on each engine, should decide at the same step; each mismatch is put down to a thought
  that had diverged before, or to a signal within 1e-3 of what decides, or is listed as unexplained;
- EM and decoded tokens of both engines, which may differ by sampling error.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.engines.workload import POLICIES, Served, problems, serve, started
from experiments.policies import (
    Confidence,
    EndMargin,
    EntropyPlateau,
    Observation,
    Plateau,
    Policy,
    PolicyRun,
    TrialAnswer,
)
from experiments.policies.confidence import trial_confidence

ENGINES = ("transformers", "vllm")
CONCURRENCY = 32
NEAR = 1e-3


@dataclass(slots=True)
class Row:
    """What was found for one policy.

    Attributes:
        replayed: runs of each engine whose recorded signals lead to the same step.
        early: runs that were ended early, by engine.
        same: pairs of runs that decide at the same step.
        diverged, near: mismatches explained by the thought, by a signal close to what decides.
        unexplained: the prompts of the others.
    """

    policy: str
    prompts: int
    replayed: dict[str, int] = field(default_factory=dict)
    early: dict[str, int] = field(default_factory=dict)
    same: int = 0
    diverged: int = 0
    near: int = 0
    unexplained: list[str] = field(default_factory=list)
    em: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, float] = field(default_factory=dict)
    token_error: float = 0.0
    lag: float = 0.0


def main(arguments: list[str]) -> int:
    """Measure and print; exit status 1 if a replay disagrees or a mismatch has no explanation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=512)
    parser.add_argument("--out", type=Path, help="write the table to a Markdown file, too")
    options = parser.parse_args(arguments)
    found = asyncio.run(_run_all(options.prompts))
    rows = [compare(name, POLICIES[name], found[name]) for name in POLICIES]
    table = render(rows)
    print(table)
    if options.out:
        options.out.write_text(table + "\n")
    bad = [r for r in rows if r.unexplained or any(n < r.prompts for n in r.replayed.values())]
    return 1 if bad else 0


async def _run_all(count: int) -> dict[str, dict[str, list[Served]]]:
    asked = problems(count)
    found: dict[str, dict[str, list[Served]]] = {name: {} for name in POLICIES}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task("", total=count * len(POLICIES) * len(ENGINES))
        for kind in ENGINES:
            progress.update(bar, description=f"starting {kind}")
            async with started(kind, CONCURRENCY) as engine:
                for name, policy in POLICIES.items():
                    progress.update(bar, description=f"{kind}: {name}")
                    served, _ = await serve(engine, asked, policy, CONCURRENCY, lambda: progress.advance(bar))
                    found[name][kind] = served
    return found


def compare(name: str, policy: Policy, runs: dict[str, list[Served]]) -> Row:
    """Hold the runs of one policy against each other and against the policy alone."""
    one, other = (runs[kind] for kind in ENGINES)
    row = Row(name, len(one))
    for kind in ENGINES:
        row.replayed[kind] = sum(decided(s) == replayed(policy, s) for s in runs[kind])
        row.early[kind] = sum(map(_left_early, runs[kind]))
        row.em[kind] = statistics.fmean(s.correct for s in runs[kind])
        row.tokens[kind] = statistics.fmean(s.result.tokens.decoded for s in runs[kind])
    for a, b in zip(one, other, strict=True):
        if decided(a) == decided(b):
            row.same += 1
        elif _diverged(a, b):
            row.diverged += 1
        elif is_near(policy, a) or is_near(policy, b):
            row.near += 1
        else:
            row.unexplained.append(a.problem.prompt)
    differences = [b.result.tokens.decoded - a.result.tokens.decoded for a, b in zip(one, other, strict=True)]
    row.token_error = statistics.stdev(differences) / math.sqrt(len(differences))
    lags = [s.result.applied_step - s.result.exit.decision_step for s in other if _left_early(s)]  # type: ignore[operator,union-attr]
    row.lag = statistics.fmean(lags) if lags else 0.0
    return row


def _left_early(served: Served) -> bool:
    left = served.result.exit
    return left is not None and left.reason.value not in ("end_of_thinking", "length")


def decided(served: Served) -> int | None:
    """The step at which the policy ended thinking by what it saw; None: it did not."""
    left = served.result.exit
    if not _left_early(served) or left is None or left.reason.value in ("token_budget", "hard_cap"):
        return None
    return left.decision_step


def replayed(policy: Policy, served: Served) -> int | None:
    """The step at which the policy decides on the recorded signals alone."""
    run = PolicyRun(policy)
    for observation in served.result.observations:
        decision = run.observe(observation)
        if decision is not None:
            return decision.decision_step
    return None


def _diverged(a: Served, b: Served) -> bool:
    """Whether the thoughts differ before the earlier of the two ends of thinking."""
    shorter = min(len(a.result.thinking), len(b.result.thinking))
    return a.result.thinking[:shorter] != b.result.thinking[:shorter]


def is_near(policy: Policy, served: Served) -> bool:
    """Whether some recorded signal of a run lies within 1e-3 of what decides."""
    seen = served.result.observations
    if isinstance(policy, EndMargin):
        return any(o.end_margin is not None and abs(o.end_margin - policy.threshold) < NEAR for o in seen)
    if isinstance(policy, Confidence):
        return any(abs(_confidence(o.trial, policy.aggregate) - policy.threshold) < NEAR for o in seen)
    if isinstance(policy, Plateau):
        values = [_confidence(o.trial, policy.aggregate) for o in seen]
        return any(abs(b - max(values[:i]) - policy.delta) < NEAR for i, b in enumerate(values) if i)
    if isinstance(policy, EntropyPlateau):
        return _settles_nearly(policy, seen)
    return False


def _confidence(trial: TrialAnswer | None, aggregate: str) -> float:
    return 0.0 if trial is None else trial_confidence(trial.token_logprobs, aggregate)


def _settles_nearly(policy: EntropyPlateau, seen: Sequence[Observation]) -> bool:
    """Whether a delta that is larger or smaller by 1e-3 decides elsewhere."""
    steps = set()
    for delta in (policy.delta - NEAR, policy.delta, policy.delta + NEAR):
        run = PolicyRun(
            EntropyPlateau(
                delta=max(delta, 0.0),
                timescale=policy.timescale,
                warm_up=policy.warm_up,
                probe_every=policy.probe_every,
            )
        )
        steps.add(next((d.decision_step for o in seen if (d := run.observe(o)) is not None), None))
    return len(steps) > 1


def render(rows: Sequence[Row]) -> str:
    """The table."""
    heads = ["policy", "prompts", "left early", "replay: transformers, vLLM", "same step in both"]
    heads += ["diverged / near / unexplained", "EM: transformers, vLLM"]
    heads += ["decoded tokens: transformers, vLLM (difference)", "vLLM applies after"]
    lines = [f"| {' | '.join(heads)} |", "|---|---:|---|---|---|---|---|---|---:|"]
    for row in rows:
        a, b = (row.tokens[kind] for kind in ENGINES)
        tokens = f"{a:.1f}, {b:.1f} ({b - a:+.1f} ± {row.token_error:.1f})"
        lines.append(
            f"| `{row.policy}` | {row.prompts} | {row.early['transformers']}, {row.early['vllm']} "
            f"| {row.replayed['transformers']}, {row.replayed['vllm']} "
            f"| {row.same} ({row.same / row.prompts:.1%}) | {row.diverged} / {row.near} / {len(row.unexplained)} "
            f"| {row.em['transformers']:.3f}, {row.em['vllm']:.3f} | {tokens} "
            f"| {row.lag:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
