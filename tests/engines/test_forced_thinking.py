"""Going over a recorded thought again: under another policy, or past its exit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from demo.tiny_reasoner.task import Problem
from experiments.policies import AnswerConvergence, Confidence, ExitReason, Full, Policy, TokenBudget
from tests.engines.test_transformers_engine import ask, finish, run_all
from workers.engines import sequence
from workers.engines.base import EngineError, GenerationResult, Sampling, ThinkingProfile
from workers.engines.transformers_engine import TransformersEngine

POLICIES = [
    Confidence(threshold=0.9, probe_every=32),
    AnswerConvergence(patience=2, probe_every=32),
    TokenBudget(max_thinking_tokens=60),
]


@pytest_asyncio.fixture
async def engine(checkpoint_path: str, profile: ThinkingProfile) -> AsyncIterator[TransformersEngine]:
    engine = TransformersEngine(checkpoint_path, profile, max_concurrency=16, threads=1)
    await engine.start()
    yield engine
    await engine.close()


def ended(result: GenerationResult) -> bool:
    return result.exit is not None and result.exit.reason is ExitReason.END_OF_THINKING


async def again(
    engine: TransformersEngine, problems: list[Problem], records: list[GenerationResult], policy: Policy
) -> list[GenerationResult]:
    """Each record's thinking gone over under a policy, all in one batch."""
    requests = [
        ask(problem, policy, number, forced_thinking=record.thinking, forced_end=ended(record))
        for number, (problem, record) in enumerate(zip(problems, records, strict=True))
    ]
    return list(await asyncio.gather(*(finish(engine, request) for request in requests)))


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
async def test_a_policy_leaves_a_recorded_thought_where_it_would_have_left_its_own(
    engine: TransformersEngine, problems: list[Problem], policy: Policy
) -> None:
    full = await run_all(engine, problems, Full())
    treated = await run_all(engine, problems, policy)
    probed = await again(engine, problems, full, policy)
    for own, shadow in zip(treated, probed, strict=True):
        assert shadow.exit == own.exit
        assert (shadow.answer, shadow.thinking, shadow.probes) == (own.answer, own.thinking, own.probes)
        assert shadow.tokens.thinking == 0
        assert shadow.tokens.forced == own.tokens.thinking
        kinds = ("answer", "probe", "overrun")
        assert [getattr(shadow.tokens, kind) for kind in kinds] == [getattr(own.tokens, kind) for kind in kinds]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
async def test_a_thought_that_was_left_goes_on_as_if_it_never_had_been(
    engine: TransformersEngine, problems: list[Problem], policy: Policy
) -> None:
    full = await run_all(engine, problems, Full())
    treated = await run_all(engine, problems, policy)
    continued = await again(engine, problems, treated, Full())
    for own, left, shadow in zip(full, treated, continued, strict=True):
        assert (shadow.thinking, shadow.answer) == (own.thinking, own.answer)
        assert shadow.tokens.forced + shadow.tokens.thinking == own.tokens.thinking
        assert shadow.tokens.forced == left.tokens.thinking
        assert shadow.tokens.probe == shadow.tokens.overrun == 0


async def test_a_record_that_ended_is_fed_in_one_pass_and_answered(
    engine: TransformersEngine, problems: list[Problem], monkeypatch: pytest.MonkeyPatch
) -> None:
    (full,) = await run_all(engine, problems[:1], Full())
    steps = []
    batch = engine._batch
    assert batch is not None
    step = batch.step
    monkeypatch.setattr(batch, "step", lambda *args: steps.append(1) or step(*args))
    (shadow,) = await again(engine, problems[:1], [full], Full())
    assert (shadow.answer, shadow.tokens.thinking) == (full.answer, 0)
    # The prompt, the whole thought, and the answer's tokens.
    assert len(steps) <= 2 + shadow.tokens.answer < full.tokens.thinking / 4


async def test_a_thought_that_does_not_come_back_from_its_tokens_is_refused(
    engine: TransformersEngine, problems: list[Problem]
) -> None:
    with pytest.raises(EngineError, match="does not come back from its tokens") as caught:
        await finish(engine, ask(problems[0], Full(), forced_thinking="\N{SNOWMAN} no such token"))
    assert caught.value.invalid_request


async def test_a_long_record_is_fed_in_parts_with_the_same_end(
    engine: TransformersEngine, problems: list[Problem], monkeypatch: pytest.MonkeyPatch
) -> None:
    full = await run_all(engine, problems, Full())
    whole = await again(engine, problems, full, POLICIES[0])
    monkeypatch.setattr(sequence, "MAX_FED_AT_ONCE", 7)
    assert [r.exit for r in await again(engine, problems, full, POLICIES[0])] == [r.exit for r in whole]
    assert [r.answer for r in await again(engine, problems, full, Full())] == [r.answer for r in full]


async def test_feeding_a_record_uses_up_no_random_numbers(
    engine: TransformersEngine, problems: list[Problem], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many passes the record takes, the same seed goes on the same way."""
    (full,) = await run_all(engine, problems[:1], Full())
    half = full.thinking[: len(full.thinking) // 2]
    sampling = Sampling(temperature=1.5, seed=5)
    texts = set()
    for at_once in (512, 7):
        monkeypatch.setattr(sequence, "MAX_FED_AT_ONCE", at_once)
        result = await finish(engine, ask(problems[0], Full(), sampling=sampling, forced_thinking=half))
        texts.add((result.thinking, result.text))
    assert len(texts) == 1
