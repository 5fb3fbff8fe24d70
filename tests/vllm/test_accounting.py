"""Curtail's counts against vLLM's own, and how soon vLLM stops for whoever leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from prometheus_client import REGISTRY

from experiments.policies import Confidence, EntropyPlateau, Full, Policy, RunJump, TokenBudget
from tests.engines.contract import ADAPTIVE, ask, request
from tests.tiny_reasoner import PROMPTS
from workers.engines.base import EngineError
from workers.engines.vllm_engine.engine import VLLMEngine

PROBING = Confidence(threshold=1.0, patience=1000, probe_every=16)


def counted(name: str) -> float:
    """The sum of one of vLLM's counters over its engines."""
    return sum(s.value for m in REGISTRY.collect() for s in m.samples if s.name == f"vllm:{name}")


async def settled(engine: VLLMEngine, seconds: float = 5.0) -> None:
    """Return when vLLM has nothing in flight."""
    async with asyncio.timeout(seconds):
        while engine.unfinished:
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    "policy",
    [Full(), TokenBudget(max_thinking_tokens=50), EntropyPlateau(probe_every=16), RunJump(probe_every=16), PROBING],
    ids=lambda policy: policy.name,
)
async def test_decoded_tokens_equal_the_engines_own_count(engine: VLLMEngine, policy: Policy) -> None:
    before = counted("generation_tokens_total")
    results = [await ask(engine, request(f"r{i}", prompt, policy)) for i, prompt in enumerate(PROMPTS)]
    await settled(engine)
    decoded = sum(result.tokens.decoded for result in results)
    # A branch that is dropped at the decision may have decoded a token that nobody saw any more.
    dropped = sum(result.probes - len(result.observations) for result in results)
    assert decoded <= counted("generation_tokens_total") - before <= decoded + dropped


async def test_probes_prefill_little_more_than_a_block_anew(engine: VLLMEngine) -> None:
    result = await ask(engine, request("a", PROMPTS[0], PROBING))
    assert result.probes > 5
    # The end tag, and what does not fill one of the blocks of 32 tokens.
    assert result.tokens.prefill <= result.probes * (32 + 32)
    assert result.tokens.prefill >= result.probes


async def test_a_client_that_leaves_stops_decoding_at_once(engine: VLLMEngine) -> None:
    leaving: list[AsyncIterator[Any]] = [engine.generate(request(f"l{i}", p, PROBING)) for i, p in enumerate(PROMPTS)]
    await asyncio.gather(*(anext(events) for events in leaving))
    await asyncio.gather(*(events.aclose() for events in leaving))  # type: ignore[attr-defined]
    await settled(engine, 1.0)
    before = counted("generation_tokens_total")
    # Whoever comes next has the engine alone: only its own tokens are decoded.
    result = await ask(engine, request("next", PROMPTS[0]))
    await settled(engine)
    assert counted("generation_tokens_total") - before <= result.tokens.decoded + len(leaving)


async def test_cancelling_stops_within_a_step(engine: VLLMEngine) -> None:
    async for event in engine.generate(request("a", PROMPTS[0], PROBING)):
        last = event
        engine.cancel("a")
    await settled(engine, 1.0)
    # One token was streamed before the cancellation; what was on its way may follow.
    assert last.result.tokens.thinking <= 4  # type: ignore[union-attr]


async def test_a_request_that_vllm_refuses_fails_alone(engine: VLLMEngine) -> None:
    good, bad = await asyncio.gather(
        ask(engine, request("good", PROMPTS[0], ADAPTIVE[1])),
        ask(engine, request("bad", PROMPTS[1], temperature=-1.0)),
        return_exceptions=True,
    )
    assert getattr(good, "answer", "")
    assert isinstance(bad, EngineError)
    assert (await ask(engine, request("bad", PROMPTS[1]))).answer
