"""The transformers engine against plain decoding of the same model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import pytest_asyncio
import torch

from demo.tiny_reasoner.task import Problem
from experiments.policies import AnswerConvergence, Confidence, ExitReason, Full, Policy, TokenBudget
from tests.engines.contract import EngineContract
from tests.tiny_reasoner import PROMPTS, WRAP_UP
from workers.engines.base import (
    Delta,
    DeltaKind,
    EngineError,
    Finished,
    FinishReason,
    GenerationRequest,
    GenerationResult,
    Sampling,
    ThinkingProfile,
)
from workers.engines.transformers_engine import TransformersEngine


@pytest_asyncio.fixture
async def engine(checkpoint_path: str, profile: ThinkingProfile) -> AsyncIterator[TransformersEngine]:
    engine = TransformersEngine(checkpoint_path, profile, max_concurrency=8, threads=1)
    await engine.start()
    yield engine
    await engine.close()


class TestContract(EngineContract):
    prompts = PROMPTS
    wrap_up = WRAP_UP
    too_long = 100


def ask(problem: Problem, policy: Policy, number: int = 0, **options: Any) -> GenerationRequest:
    messages = [{"role": "user", "content": problem.prompt}]
    return GenerationRequest(f"request-{number}", messages, policy, **options)


async def finish(engine: TransformersEngine, request: GenerationRequest) -> GenerationResult:
    async for event in engine.generate(request):
        if isinstance(event, Finished):
            return event.result
    raise AssertionError("the engine ended without a result")


async def run_all(
    engine: TransformersEngine, problems: Sequence[Problem], policy: Policy, **options: Any
) -> list[GenerationResult]:
    requests = [ask(problem, policy, number, **options) for number, problem in enumerate(problems)]
    return list(await asyncio.gather(*(finish(engine, request) for request in requests)))


def plain_decode(model: Any, tokenizer: Any, text: str) -> str:
    """Greedy continuation of a text by transformers' own generate, batch size 1."""
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    output = model.generate(**ids, max_new_tokens=600, do_sample=False)
    return str(tokenizer.decode(output[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))


def prompt_text(tokenizer: Any, problem: Problem) -> str:
    messages = [{"role": "user", "content": problem.prompt}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


async def test_batched_decoding_equals_plain_greedy_decoding(
    engine: TransformersEngine, model: Any, tokenizer: Any, problems: list[Problem]
) -> None:
    # More problems than rows: sequences join and leave the batch at different times.
    results = await run_all(engine, problems, Full())
    expected = [plain_decode(model, tokenizer, prompt_text(tokenizer, problem)) for problem in problems]
    assert [f"{r.thinking}</think>{r.text}" for r in results] == expected


async def test_full_counts_every_decoded_token(
    engine: TransformersEngine, tokenizer: Any, problems: list[Problem]
) -> None:
    result = await finish(engine, ask(problems[0], Full()))
    thinking = tokenizer(result.thinking + "</think>", add_special_tokens=False).input_ids
    answer = tokenizer(result.text, add_special_tokens=False).input_ids
    assert result.tokens.thinking == len(thinking)
    assert result.tokens.answer == len(answer) + 1  # the end-of-sequence token is decoded too
    assert result.tokens.probe == result.tokens.overrun == 0
    assert result.exit is not None
    assert result.exit.reason is ExitReason.END_OF_THINKING


async def test_answer_after_an_exit_equals_plain_decoding_from_the_same_prefix(
    engine: TransformersEngine, model: Any, tokenizer: Any, problems: list[Problem]
) -> None:
    policy = Confidence(threshold=0.95, patience=2, probe_every=32)
    results = await run_all(engine, problems, policy)
    early = [(p, r) for p, r in zip(problems, results, strict=True) if r.exit and r.exit.reason is ExitReason.CONFIDENT]
    assert early, "no request exited early"
    for problem, result in early:
        prefix = prompt_text(tokenizer, problem) + result.thinking + "</think>"
        assert result.text == plain_decode(model, tokenizer, prefix)
        assert result.exit is not None
        assert result.exit.decision_step == result.applied_step == result.tokens.thinking
        assert result.tokens.overrun == 1  # the forced end-of-thinking token


async def test_probes_leave_the_thinking_unchanged(engine: TransformersEngine, problems: list[Problem]) -> None:
    # Patience that no thought reaches: probes are taken all along, and nothing may come of it.
    probing = await run_all(engine, problems, AnswerConvergence(patience=1000, probe_every=16))
    plain = await run_all(engine, problems, Full())
    assert [r.thinking for r in probing] == [r.thinking for r in plain]
    assert [r.text for r in probing] == [r.text for r in plain]
    assert all(r.probes > 0 and r.tokens.probe >= r.probes for r in probing)


async def test_trial_answers_equal_a_forward_pass_over_the_same_prefix(
    engine: TransformersEngine, model: Any, tokenizer: Any, problems: list[Problem]
) -> None:
    """The trial answer's confidence at the exit is the model's probability of the answer, recomputed from text."""
    policy = Confidence(threshold=0.95, patience=1, probe_every=32)
    result = await finish(engine, ask(problems[0], policy))
    assert result.exit is not None
    prefix = prompt_text(tokenizer, problems[0]) + result.thinking + "</think>"
    ids = tokenizer(prefix, add_special_tokens=False, return_tensors="pt").input_ids
    with torch.inference_mode():
        probability = float(model(input_ids=ids).logits[0, -1].softmax(-1).max())
    stated = float(result.exit.detail.split()[1])
    assert stated == pytest.approx(probability, abs=1e-4)


async def test_token_budget_ends_thinking_exactly_there(engine: TransformersEngine, problems: list[Problem]) -> None:
    results = await run_all(engine, problems, TokenBudget(max_thinking_tokens=50))
    assert {r.tokens.thinking for r in results} == {50}
    assert {r.exit.reason for r in results if r.exit} == {ExitReason.TOKEN_BUDGET}
    assert all(r.finish_reason is FinishReason.STOP for r in results)


async def test_streamed_text_equals_the_result(engine: TransformersEngine, problems: list[Problem]) -> None:
    events = [event async for event in engine.generate(ask(problems[0], Full(), stream=True))]
    finished = events[-1]
    assert isinstance(finished, Finished)
    deltas = [event for event in events if isinstance(event, Delta)]
    text = {kind: "".join(d.text for d in deltas if d.kind is kind) for kind in DeltaKind}
    assert text[DeltaKind.THINKING] == finished.result.thinking
    assert text[DeltaKind.ANSWER] == finished.result.text
    assert len(deltas) > 10


async def test_a_seed_makes_sampling_repeatable(engine: TransformersEngine, problems: list[Problem]) -> None:
    hot = Sampling(temperature=1.5, top_p=0.9, seed=5)
    first = await finish(engine, ask(problems[0], Full(), 1, sampling=hot))
    again = await finish(engine, ask(problems[0], Full(), 2, sampling=hot))
    other = await finish(engine, ask(problems[0], Full(), 3, sampling=Sampling(temperature=1.5, seed=6)))
    assert first.thinking == again.thinking != other.thinking


async def test_max_tokens_ends_with_length(engine: TransformersEngine, problems: list[Problem]) -> None:
    result = await finish(engine, ask(problems[0], Full(), sampling=Sampling(max_tokens=20)))
    assert result.finish_reason is FinishReason.LENGTH
    assert result.tokens.decoded == 20


async def test_cancel_ends_the_request_and_keeps_its_counts(
    engine: TransformersEngine, problems: list[Problem]
) -> None:
    request = ask(problems[0], Full(), stream=True)
    result = None
    async for event in engine.generate(request):
        if isinstance(event, Finished):
            result = event.result
        else:
            engine.cancel(request.id)
    assert result is not None
    assert result.finish_reason is FinishReason.CANCELLED
    assert 0 < result.tokens.decoded < 100


async def test_closing_the_iterator_frees_its_row(engine: TransformersEngine, problems: list[Problem]) -> None:
    stream = engine.generate(ask(problems[0], Full(), 99, stream=True))
    await anext(stream)
    await stream.aclose()
    # All eight rows are needed again: a row that stayed taken would leave one of these waiting for it.
    results = await run_all(engine, problems[:8], Full())
    assert all(r.finish_reason is FinishReason.STOP for r in results)


async def test_an_iterator_that_is_closed_late_cancels_nobody_else(
    engine: TransformersEngine, problems: list[Problem]
) -> None:
    first = engine.generate(ask(problems[0], Full()))
    async for event in first:
        if isinstance(event, Finished):
            break
    second = asyncio.create_task(finish(engine, ask(problems[0], Full())))
    await asyncio.sleep(0)
    await first.aclose()
    assert (await second).finish_reason is FinishReason.STOP


async def test_a_prompt_beyond_the_context_is_the_requests_fault(
    engine: TransformersEngine, problems: list[Problem]
) -> None:
    request = GenerationRequest("long", [{"role": "user", "content": "a=1;" * 600}], Full())
    with pytest.raises(EngineError, match=r"messages have \d+ tokens, the model's context holds 1024") as caught:
        await finish(engine, request)
    assert caught.value.invalid_request


async def test_a_failing_step_ends_its_requests_with_an_error_and_the_engine_goes_on(
    engine: TransformersEngine, problems: list[Problem], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = engine._batch
    assert batch is not None

    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(batch, "_model", fail)
        patch.setattr(batch, "_logits", fail)
        with pytest.raises(EngineError, match="decoding failed: out of memory"):
            await finish(engine, ask(problems[0], Full()))
    result = await finish(engine, ask(problems[0], Full(), 1))
    assert result.finish_reason is FinishReason.STOP


async def test_requests_in_flight_end_with_an_error_when_the_engine_closes(
    checkpoint_path: str, profile: ThinkingProfile, problems: list[Problem]
) -> None:
    engine = TransformersEngine(checkpoint_path, profile, max_concurrency=1, threads=1)
    await engine.start()
    waiting = [asyncio.create_task(finish(engine, ask(p, Full(), n))) for n, p in enumerate(problems[:3])]
    await asyncio.sleep(0)
    await engine.close()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(outcome, EngineError) for outcome in outcomes)


async def test_a_missing_checkpoint_is_named(profile: ThinkingProfile, tmp_path: Any) -> None:
    engine = TransformersEngine(str(tmp_path / "nothing"), profile)
    with pytest.raises(EngineError, match=r"cannot load checkpoint .*nothing"):
        await engine.start()
