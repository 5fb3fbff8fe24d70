"""What early exit saves, in tokens and in time: `python -m benchmarks.early_exit [--engine vllm] [--out FILE]`.

For each policy, closed loop at 1, 8 and 32 requests in flight: decoded tokens and wall time per request against full
thinking on the same prompts. The prompts come in groups; each group is served by every policy one after the other, in
an order that rotates, so that a machine that gets slower or busier does so for all. Intervals are Student's t over the
logarithms of the groups' ratios. `--thoughts` compares with a proxy that asks for every chunk anew, on thoughts of at
least 3,000 tokens (scripted logits on the real engine; vLLM's first model runner only).

The engine is vLLM where it is installed (`make test-vllm` installs it into .venv-vllm; on a GPU the same command with
requirements-vllm-gpu.txt), or transformers.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import itertools
import math
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from scipy import stats

from benchmarks.engines.workload import INACTIVE, POLICIES, PROFILE, problems, serve, started
from experiments.policies import AnswerConvergence, Full, Policy
from workers.engines.base import Engine, Finished, GenerationRequest

BATCHES = (1, 8, 32)
GROUP = 64
# Thoughts of LONG tokens whose answer settles at SETTLES; asked anew as often as Dynasor's released code does.
LONG, SETTLES, CHUNK = 3_400, 3_000, 32


@dataclass(slots=True)
class Line:
    """Per group, one policy at one batch size.

    Attributes:
        seconds, decoded: of the whole group.
        correct, requests: over all groups.
    """

    seconds: list[float] = field(default_factory=list)
    decoded: list[int] = field(default_factory=list)
    correct: int = 0
    requests: int = 0


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio of totals with its interval of 95 %."""

    value: float
    lower: float
    upper: float

    def saved(self) -> str:
        """What is saved, in percent."""
        return f"{1 - self.value:.1%} ({1 - self.upper:.1%} to {1 - self.lower:.1%})"


def ratio(tops: Sequence[float], bottoms: Sequence[float]) -> Ratio:
    """The ratio of totals; Student's t over the logarithms of the pairs' ratios."""
    logs = [math.log(a / b) for a, b in zip(tops, bottoms, strict=True)]
    value = sum(tops) / sum(bottoms)
    if len(logs) < 2:
        return Ratio(value, math.nan, math.nan)
    half = float(stats.t.ppf(0.975, len(logs) - 1)) * statistics.stdev(logs) / math.sqrt(len(logs))
    return Ratio(value, value * math.exp(-half), value * math.exp(half))


def main(arguments: list[str]) -> int:
    """Measure, print the tables, and write them where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("transformers", "vllm"), default="vllm")
    parser.add_argument("--prompts", type=int, default=512, help="per batch size; a multiple of the group")
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--group", type=int, default=GROUP)
    parser.add_argument("--policies", nargs="+", choices=[*POLICIES], default=[n for n in POLICIES if n != "full"])
    parser.add_argument("--thoughts", action="store_true", help="the comparison on long thoughts instead")
    parser.add_argument("--requests", type=int, default=4, help="long thoughts of each kind")
    parser.add_argument("--out", type=Path, help="write the tables to a Markdown file, too")
    options = parser.parse_args(arguments)
    text = asyncio.run(_thoughts(options) if options.thoughts else _early_exits(options))
    print(text)
    if options.out:
        options.out.write_text(text + "\n")
    return 0


def device() -> str:
    """The device's name."""
    import torch

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    model = next((line for line in _cpuinfo() if line.startswith("model name")), platform.machine())
    return f"{os.cpu_count()} cores of {model.partition(':')[2].strip() or model}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


# -- early exits ---------------------------------------------------------------------------------------------


async def _early_exits(options: argparse.Namespace) -> str:
    chosen = {"full": POLICIES["full"], "inactive": INACTIVE} | {n: POLICIES[n] for n in options.policies}
    tables = [f"{options.engine}, float32, on {device()}; {options.prompts} prompts for each batch size."]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task("starting", total=len(options.batches) * options.prompts * len(chosen))
        async with started(options.engine, max(options.batches)) as engine:
            await serve(engine, problems(8), Full(), 4)  # warm
            for batch in options.batches:
                lines = await _measure(engine, chosen, batch, options, progress, bar)
                tables.append(render(lines, batch))
    return "\n\n".join(tables)


async def _measure(
    engine: Engine,
    chosen: dict[str, Policy],
    batch: int,
    options: argparse.Namespace,
    progress: Progress,
    bar: Any,
) -> dict[str, Line]:
    asked = problems(options.prompts)
    lines = {name: Line() for name in chosen}
    groups = [asked[i : i + options.group] for i in range(0, len(asked), options.group)]
    for number, group in enumerate(groups):
        names = list(chosen)
        names = names[number % len(names) :] + names[: number % len(names)]
        for name in names:
            progress.update(bar, description=f"batch {batch}: {name}")
            served, seconds = await serve(engine, group, chosen[name], batch, lambda: progress.advance(bar))
            line = lines[name]
            line.seconds.append(seconds)
            line.decoded.append(sum(s.result.tokens.decoded for s in served))
            line.correct += sum(s.correct for s in served)
            line.requests += len(served)
    return lines


def render(lines: dict[str, Line], batch: int) -> str:
    """One batch size's table."""
    full = lines["full"]
    rows = [
        f"Batch {batch}:",
        "",
        "| policy | EM | decoded tokens | ms per request | tokens saved | time saved | time saved over tokens saved |",
        "|---|---:|---:|---:|---|---|---:|",
    ]
    for name, line in lines.items():
        tokens, seconds = ratio(line.decoded, full.decoded), ratio(line.seconds, full.seconds)
        saved = 1 - tokens.value
        share = f"{(1 - seconds.value) / saved:.2f}" if saved > 0.02 else ""
        rows.append(
            f"| `{name}` | {line.correct / line.requests:.3f} | {sum(line.decoded) / line.requests:.1f} "
            f"| {1000 * sum(line.seconds) / line.requests:.1f} | {_saved(name, tokens)} | {_saved(name, seconds)} "
            f"| {share} |"
        )
    return "\n".join(rows)


def _saved(name: str, value: Ratio) -> str:
    return "" if name == "full" else value.saved()


# -- long thoughts -------------------------------------------------------------------------------------------


async def _thoughts(options: argparse.Namespace) -> str:
    """The same policy three ways: ours, a proxy on a warm prefix cache, and one without a prefix cache."""
    from benchmarks.engines import scripted_logits
    from benchmarks.engines.reissue import ReissueProxy
    from demo.tiny_reasoner.checkpoints import read_index
    from workers.engines.vllm_engine.engine import VLLMEngine, VLLMOptions

    os.environ[scripted_logits.LENGTH] = str(LONG)
    os.environ[scripted_logits.SETTLES] = str(SETTLES)
    profile = dataclasses.replace(PROFILE, max_context_tokens=4_096)
    policy = AnswerConvergence(patience=3, probe_every=CHUNK)
    asked = [problem.prompt for problem in problems(options.requests)]
    names = itertools.count()

    def request(prompt: str, chosen: Policy) -> GenerationRequest:
        return GenerationRequest(f"t{next(names)}", [{"role": "user", "content": prompt}], chosen)

    rows = ["| way | seconds per request | decoded tokens | prefilled anew | against ours |"]
    rows.append("|---|---:|---:|---:|---:|")
    times: dict[str, float] = {}
    folder = tempfile.TemporaryDirectory(prefix="curtail-bench-")
    path = _middling(read_index()[-1].path, Path(folder.name))
    for caching in (True, False):
        engine = VLLMEngine(
            path,
            profile,
            VLLMOptions(
                max_concurrency=4,
                dtype="float32",
                threads=1,
                prefix_caching=caching,
                extra_logits_processors=("benchmarks.engines.scripted_logits:ScriptedLogits",),
            ),
        )
        await engine.start()
        try:
            if caching:
                for way, chosen in (("full", Full()), ("ours", policy)):
                    found = [await _one(engine, request(prompt, chosen)) for prompt in asked]
                    times[way] = statistics.fmean(seconds for seconds, _ in found)
                    decoded = statistics.fmean(r.tokens.decoded for _, r in found)
                    prefill = statistics.fmean(r.tokens.prefill for _, r in found)
                    rows.append(_row(way, times, decoded, prefill))
            way = f"asked anew for every {CHUNK} tokens, {'with' if caching else 'without'} prefix cache"
            proxy = ReissueProxy(engine, profile, CHUNK)
            few = asked if caching else asked[: max(1, len(asked) // 2)]
            times[way] = statistics.fmean([await proxy.serve(request(prompt, policy), policy) for prompt in few])
            rows.append(_row(way, times, proxy.decoded / len(few), proxy.prefilled / len(few)))
        finally:
            await engine.close()
    return "\n".join(
        [f"vLLM, scripted logits over 26 M random parameters, one request at a time, on {device()}:", "", *rows]
    )


def _middling(tokenizer_of: Path, folder: Path) -> str:
    """A model with random weights that is large enough for prefill to cost what it does in earnest: 26 M parameters."""
    from transformers import AutoConfig, AutoModelForCausalLM

    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        if (tokenizer_of / name).exists():
            shutil.copy(tokenizer_of / name, folder / name)
    config = AutoConfig.from_pretrained(tokenizer_of)
    sizes = {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4}
    for key, value in (sizes | {"intermediate_size": 1536, "max_position_embeddings": 4_096}).items():
        setattr(config, key, value)
    config.layer_types = ["full_attention"] * config.num_hidden_layers
    model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    return str(folder)


async def _one(engine: Any, asked: GenerationRequest) -> tuple[float, Any]:
    began = time.perf_counter()
    async for event in engine.generate(asked):
        if isinstance(event, Finished):
            return time.perf_counter() - began, event.result
    raise RuntimeError("the engine ended without a result")


def _row(way: str, times: dict[str, float], decoded: float, prefill: float) -> str:
    against = f"{times[way] / times['ours']:.1f}" if "ours" in times else ""
    return f"| {way} | {times[way]:.1f} | {decoded:,.0f} | {prefill:,.0f} | {against} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
