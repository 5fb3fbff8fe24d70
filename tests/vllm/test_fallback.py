"""Where the sampler cannot end thinking, a request is aborted and continued: the same contract, for some prefill."""

from __future__ import annotations

import pytest

from experiments.policies import EndMargin, TokenBudget
from tests.engines.contract import ADAPTIVE, EngineContract, ask, request
from tests.tiny_reasoner import PROMPTS, WRAP_UP
from workers.engines.base import EngineError
from workers.engines.vllm_engine.engine import VLLMEngine


@pytest.fixture
def engine(continuing: VLLMEngine) -> VLLMEngine:
    return continuing


class TestContract(EngineContract):
    prompts = PROMPTS
    wrap_up = WRAP_UP
    lag = 24
    too_long = 100
    adaptive = tuple(policy for policy in ADAPTIVE if not isinstance(policy, EndMargin))


async def test_a_continuation_counts_what_it_prefills_anew(engine: VLLMEngine) -> None:
    result = await ask(engine, request("a", PROMPTS[0], TokenBudget(max_thinking_tokens=50)))
    # At most what does not fill a block of 32, and the end tag; never the whole prefix once more.
    assert 0 < result.tokens.prefill <= 33
    assert result.tokens.overrun == 1


async def test_what_needs_the_sampler_is_refused(engine: VLLMEngine) -> None:
    with pytest.raises(EngineError, match="reads the running request, which needs exits in place") as caught:
        await ask(engine, request("a", PROMPTS[0], EndMargin()))
    assert caught.value.invalid_request
