"""Recorded thoughts, fed again under another policy: what shadow runs need."""

from __future__ import annotations

import dataclasses

import pytest

from experiments.policies import AnswerConvergence, Confidence, EndMargin, Full, Policy, TokenBudget
from tests.engines.contract import ask, request
from tests.tiny_reasoner import PROMPTS
from workers.engines.base import EngineError, FinishReason
from workers.engines.vllm_engine.engine import VLLMEngine

POLICIES = (
    Confidence(threshold=0.9, patience=2, probe_every=32),
    AnswerConvergence(patience=2, probe_every=16),
    TokenBudget(max_thinking_tokens=60),
)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
async def test_probing_a_full_record_finds_the_exit_of_the_treated_run(engine: VLLMEngine, policy: Policy) -> None:
    for i, prompt in enumerate(PROMPTS[:4]):
        full = await ask(engine, request(f"f{i}", prompt))
        treated = await ask(engine, request(f"t{i}", prompt, policy))
        again = dataclasses.replace(request(f"s{i}", prompt, policy), forced_thinking=full.thinking, forced_end=True)
        shadow = await ask(engine, again)
        assert shadow.exit == treated.exit
        assert [o.trial for o in shadow.observations] == [o.trial for o in treated.observations]
        assert shadow.tokens.thinking == 0
        assert shadow.exit is not None
        # A forced end is overrun; the natural end of a thought that nothing stopped is part of the record.
        assert shadow.applied_step == shadow.exit.decision_step
        assert shadow.finish_reason is FinishReason.STOP


async def test_continuing_a_treated_record_gives_the_full_run(engine: VLLMEngine) -> None:
    policy = TokenBudget(max_thinking_tokens=60)
    for i, prompt in enumerate(PROMPTS[:4]):
        full = await ask(engine, request(f"f{i}", prompt))
        treated = await ask(engine, request(f"t{i}", prompt, policy))
        again = dataclasses.replace(request(f"s{i}", prompt, Full()), forced_thinking=treated.thinking)
        shadow = await ask(engine, again)
        assert (shadow.thinking, shadow.text) == (full.thinking, full.text)
        assert shadow.tokens.forced + shadow.tokens.thinking == full.tokens.thinking
        assert shadow.tokens.forced == 60


async def test_a_record_shows_end_margin_nothing(engine: VLLMEngine) -> None:
    again = dataclasses.replace(request("s", PROMPTS[0], EndMargin()), forced_thinking="draft\n")
    with pytest.raises(EngineError, match="a recorded thought is fed, and shows it nothing"):
        await ask(engine, again)
