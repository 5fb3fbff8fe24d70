"""The engine of remote servers keeps the contract in front of vLLM's own server, with the plugin and without."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from experiments.policies import (
    AnswerConvergence,
    Confidence,
    EndMargin,
    ExitReason,
    Plateau,
    Policy,
    RunJump,
    TokenBudget,
)
from experiments.remote_server import Budget, Continues, RemoteServer, Tokens, Usage
from tests.engines.contract import EngineContract, ask, replayed
from tests.engines.contract import request as asked
from tests.tiny_reasoner import PROMPTS, WRAP_UP, tokenizer
from workers.engines.base import ThinkingProfile
from workers.engines.openai_engine.engine import OpenAIEngine

__all__ = ["tokenizer"]

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 240
STOP_SECONDS = 60
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "platform"))),
}
BRANCHES = (
    AnswerConvergence(patience=2, probe_every=16),
    Confidence(threshold=0.9, patience=2, probe_every=32),
    Plateau(patience=2, probe_every=16),
    RunJump(min_jump=2, probe_every=16),
)
IDS: Mapping[str, Any] = {"tokens": Tokens.IDS, "continues": Continues.COMPLETIONS, "logprobs": True}


@pytest.fixture(scope="module")
def url(checkpoint_path: str, profile: ThinkingProfile, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a vLLM server, which is gone with all its children afterwards."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--model", checkpoint_path, "--served-model-name", "tiny", "--dtype", "float32", "--enforce-eager"]
    command += ["--block-size", "32", "--max-model-len", str(profile.max_context_tokens), "--max-num-seqs", "64"]
    command += ["--reasoning-parser", "deepseek_r1", "--enable-prompt-tokens-details"]
    command += ["--reasoning-config", '{"reasoning_start_str": "<think>", "reasoning_end_str": "</think>"}']
    command += ["--logits-processors", "workers.engines.vllm_engine.sampler_v1:InPlaceExits"]
    with log.open("wb") as out:
        server = subprocess.Popen(
            command, stdout=out, stderr=out, env={**os.environ, **ENVIRONMENT}, start_new_session=True
        )
    try:
        _wait_until_healthy(server, port, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        _stop(server)


def _wait_until_healthy(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if server.poll() is not None:
            pytest.fail(f"vLLM's server ended with {server.returncode}:\n{log.read_text()[-3000:]}")
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
            return
        time.sleep(0.5)
    pytest.fail(f"vLLM's server is not healthy after {START_SECONDS} s:\n{log.read_text()[-3000:]}")


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End the server and whatever it started."""
    started = [psutil.Process(server.pid)] if server.poll() is None else []
    started += [child for process in started for child in process.children(recursive=True)]
    server.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(started, timeout=STOP_SECONDS)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    server.wait(STOP_SECONDS)
    assert psutil.wait_procs(started, timeout=STOP_SECONDS)[1] == []


ENGINES: Mapping[str, Mapping[str, Any]] = {
    "ids": IDS,
    "ids, budget": IDS | {"budget": Budget.THINKING_TOKEN_BUDGET},
    "text": {"continues": Continues.COMPLETIONS, "logprobs": True, "usage": Usage.CHUNKS},
    # With vLLM's reasoning parser.
    "chat": {"continues": Continues.CHAT, "logprobs": True, "usage": Usage.CHUNKS, "reasoning_fields": True},
}


@contextlib.asynccontextmanager
async def started(
    url: str, checkpoint_path: str, profile: ThinkingProfile, options: Mapping[str, Any]
) -> AsyncIterator[OpenAIEngine]:
    """An engine in front of the server."""
    server = RemoteServer(base_url=url, model="tiny", **options)
    engine = OpenAIEngine(server, profile, tokenizer_path=checkpoint_path, max_concurrency=32)
    await engine.start()
    yield engine
    await engine.close()


class TestContract(EngineContract):
    """With token ids and the plugin."""

    prompts = PROMPTS[:4]
    wrap_up = WRAP_UP
    # So small a model decodes its whole thought while a branch travels, on a busy machine.
    lag = 1000
    forgiven = frozenset({"exit_missed"})
    too_long = 100
    adaptive = (EndMargin(threshold=6.0), *BRANCHES)

    @pytest_asyncio.fixture(loop_scope="session")
    async def engine(self, url: str, checkpoint_path: str, profile: ThinkingProfile) -> AsyncIterator[OpenAIEngine]:
        async with started(url, checkpoint_path, profile, IDS | {"budget": Budget.CURTAIL}) as engine:
            yield engine


@pytest_asyncio.fixture(loop_scope="session", params=list(ENGINES))
async def engine(
    request: pytest.FixtureRequest, url: str, checkpoint_path: str, profile: ThinkingProfile
) -> AsyncIterator[OpenAIEngine]:
    async with started(url, checkpoint_path, profile, ENGINES[request.param]) as engine:
        yield engine


async def test_full_has_exact_counts_that_the_tokenizer_bears_out(engine: OpenAIEngine, tokenizer: Any) -> None:
    result = await ask(engine, asked("full", PROMPTS[2]))
    assert result.exit is not None
    assert result.exit.reason is ExitReason.END_OF_THINKING
    assert result.answer
    # The end of thinking and the end of the sequence have no text.
    assert result.tokens.thinking == len(tokenizer.encode(result.thinking, add_special_tokens=False)) + 1
    assert result.tokens.answer == len(tokenizer.encode(result.text, add_special_tokens=False)) + 1
    assert result.tokens.estimated == ()


async def test_a_budget_holds_exactly(engine: OpenAIEngine, tokenizer: Any) -> None:
    result = await ask(engine, asked("budget", PROMPTS[2], TokenBudget(max_thinking_tokens=20)))
    assert result.exit is not None
    assert (result.exit.reason, result.applied_step) == (ExitReason.TOKEN_BUDGET, 20)
    assert len(tokenizer.encode(result.thinking, add_special_tokens=False)) == 20
    assert (result.tokens.thinking, result.tokens.overrun) == (20, 1)
    assert set(result.tokens.estimated) <= {"prefill"}


@pytest.mark.parametrize("policy", BRANCHES[:2], ids=lambda policy: policy.name)
async def test_trial_answers_decide_where_their_record_says(engine: OpenAIEngine, policy: Policy) -> None:
    results = [await ask(engine, asked(f"{policy.name}-{n}", prompt, policy)) for n, prompt in enumerate(PROMPTS[:3])]
    steps = [replayed(policy, result) for result in results]
    assert any(step is not None for step in steps)
    for step, result in zip(steps, results, strict=True):
        assert result.exit is not None
        assert step is None or result.exit.decision_step == step
        assert set(result.failures) <= {"exit_missed"}  # a busy machine: the thought was over before the branch
        assert result.tokens.probe >= result.probes > 0
        assert set(result.tokens.estimated) <= {"prefill"}


async def test_leaving_stops_the_decoding_in_the_server(engine: OpenAIEngine, url: str) -> None:
    events: AsyncIterator[Any] = engine.generate(asked("left", PROMPTS[2], AnswerConvergence(probe_every=16)))
    await anext(events)
    await events.aclose()  # type: ignore[attr-defined]
    end = time.monotonic() + 30
    while await asyncio.to_thread(_running, url):
        assert time.monotonic() < end, "the server still decodes"


def _running(url: str) -> float:
    """Requests that the server decodes, by its own metrics."""
    with urllib.request.urlopen(url.removesuffix("/v1") + "/metrics", timeout=30) as answer:
        text = answer.read().decode()
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("vllm:num_requests_running{"))
