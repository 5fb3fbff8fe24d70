"""What every engine promises: one suite, which each engine's own test file runs by subclassing.

A subclass gives the fixtures ``engine`` (started), ``profile``, ``vocabulary_text`` and the prompts. It says with
``exact`` whether exits take effect exactly where they are decided; engines that decode ahead of their probes apply them
up to ``lag`` tokens later.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from experiments.policies import (
    AnswerConvergence,
    Confidence,
    EndMargin,
    EntropyPlateau,
    ExitReason,
    Full,
    Plateau,
    Policy,
    PolicyRun,
    RunJump,
    TokenBudget,
)
from workers.engines.base import (
    Delta,
    DeltaKind,
    Engine,
    EngineError,
    Finished,
    FinishReason,
    GenerationRequest,
    GenerationResult,
    Sampling,
)

# One of each that measures something, with parameters that make it exit on most prompts of the tiny reasoner.
ADAPTIVE: tuple[Policy, ...] = (
    EndMargin(threshold=6.0),
    AnswerConvergence(patience=2, probe_every=16),
    Confidence(threshold=0.9, patience=2, probe_every=32),
    EntropyPlateau(delta=0.05, warm_up=3, probe_every=16),
    Plateau(patience=2, probe_every=16),
    RunJump(min_jump=2, probe_every=16),
)


@dataclass
class Heard:
    """The events of one request."""

    deltas: list[Delta] = field(default_factory=list)
    result: GenerationResult | None = None

    def text(self, kind: DeltaKind) -> str:
        """Streamed text of one kind."""
        return "".join(delta.text for delta in self.deltas if delta.kind is kind)


def request(name: str, prompt: str, policy: Policy | None = None, **options: Any) -> GenerationRequest:
    """One greedy, streaming request; ``max_tokens`` and GenerationRequest's own options may follow."""
    sampling = Sampling(max_tokens=options.pop("max_tokens", None), temperature=options.pop("temperature", 0.0))
    messages = [{"role": "user", "content": prompt}]
    return GenerationRequest(name, messages, policy or Full(), sampling, stream=options.pop("stream", True), **options)


async def hear(engine: Engine, asked: GenerationRequest) -> Heard:
    """Take all events of a request."""
    heard = Heard()
    async for event in engine.generate(asked):
        if isinstance(event, Finished):
            heard.result = event.result
        else:
            heard.deltas.append(event)
    return heard


async def ask(engine: Engine, asked: GenerationRequest) -> GenerationResult:
    """The result of a request."""
    result = (await hear(engine, asked)).result
    assert result is not None
    return result


def replayed(policy: Policy, result: GenerationResult) -> int | None:
    """The step at which the policy, fed with what was recorded in the run, decides; None: it does not."""
    run = PolicyRun(policy)
    for observation in result.observations:
        decision = run.observe(observation)
        if decision is not None:
            assert observation is result.observations[-1], "the policy saw more after it had decided"
            return decision.decision_step
    return None


class EngineContract:
    """The tests. ``prompts`` are distinct and solved by the model."""

    prompts: ClassVar[Sequence[str]]
    lag: ClassVar[int] = 0
    forgiven: ClassVar[Set[str]] = frozenset()  # failures of exits that are no surprise with such a lag
    adaptive: ClassVar[Sequence[Policy]] = ADAPTIVE

    async def test_full_thinks_until_the_model_ends_it_and_answers(self, engine: Engine) -> None:
        result = await ask(engine, request("a", self.prompts[0]))
        assert result.finish_reason is FinishReason.STOP
        assert result.exit is not None
        assert result.exit.reason is ExitReason.END_OF_THINKING
        assert result.thinking
        assert result.answer
        tokens = result.tokens
        assert (tokens.probe, tokens.overrun, tokens.prefill, result.probes) == (0, 0, 0, 0)
        assert tokens.prompt > 0
        assert tokens.thinking > 0
        assert tokens.answer > 0
        assert result.failures == ()

    async def test_streamed_text_is_the_results_thinking_before_answer(self, engine: Engine) -> None:
        heard = await hear(engine, request("a", self.prompts[0]))
        assert heard.result is not None
        assert heard.text(DeltaKind.THINKING) == heard.result.thinking
        assert heard.text(DeltaKind.ANSWER) == heard.result.text
        kinds = [delta.kind for delta in heard.deltas]
        assert kinds == sorted(kinds, key=[DeltaKind.THINKING, DeltaKind.ANSWER].index)
        assert len(heard.deltas) > 2

    async def test_nothing_is_streamed_to_who_does_not_stream(self, engine: Engine) -> None:
        assert (await hear(engine, request("a", self.prompts[0], stream=False))).deltas == []

    async def test_a_budget_ends_thinking_exactly_there(self, engine: Engine) -> None:
        full = await ask(engine, request("a", self.prompts[0]))
        for limit in (1, 7, full.tokens.thinking - 2):
            result = await ask(engine, request(f"b{limit}", self.prompts[0], TokenBudget(max_thinking_tokens=limit)))
            assert result.exit is not None
            assert (result.exit.reason, result.exit.decision_step) == (ExitReason.TOKEN_BUDGET, limit)
            assert result.applied_step == limit
            assert result.tokens.thinking == limit
            assert full.thinking.startswith(result.thinking)
            assert set(result.failures) <= {"empty_answer"}

    async def test_a_budget_that_is_never_reached_changes_nothing(self, engine: Engine) -> None:
        full = await ask(engine, request("a", self.prompts[0]))
        capped = await ask(engine, request("b", self.prompts[0], TokenBudget(max_thinking_tokens=100_000)))
        assert (capped.thinking, capped.text, capped.tokens) == (full.thinking, full.text, full.tokens)

    async def test_the_clients_cap_holds_where_it_is_smaller(self, engine: Engine) -> None:
        result = await ask(engine, request("a", self.prompts[0], TokenBudget(max_thinking_tokens=20), client_cap=6))
        assert result.exit is not None
        assert (result.exit.reason, result.exit.decision_step) == (ExitReason.CLIENT_CAP, 6)

    async def test_a_wrap_up_phrase_stands_at_the_end_of_the_thinking(self, engine: Engine) -> None:
        phrase = self.wrap_up
        result = await ask(engine, request("a", self.prompts[0], TokenBudget(max_thinking_tokens=7, wrap_up=phrase)))
        assert result.thinking.endswith(phrase)
        assert result.tokens.overrun > 1
        assert result.applied_step == 7

    wrap_up: ClassVar[str]

    async def test_every_policy_decides_where_its_recorded_signals_say(self, engine: Engine) -> None:
        exits = 0
        for policy in self.adaptive:
            asked = [request(f"{policy.name}-{i}", prompt, policy) for i, prompt in enumerate(self.prompts)]
            for result in await asyncio.gather(*(ask(engine, one) for one in asked)):
                step = replayed(policy, result)
                assert result.exit is not None
                assert result.applied_step is not None
                if step is None:
                    assert result.exit.reason is ExitReason.END_OF_THINKING
                    continue
                exits += 1
                assert result.exit.decision_step == step
                assert step <= result.applied_step <= step + self.lag
                assert set(result.failures) <= self.forgiven
        assert exits > len(self.adaptive), "hardly any exit was seen"

    async def test_probes_are_counted_with_their_tokens(self, engine: Engine) -> None:
        policy = next(p for p in self.adaptive if p.needs_branch)
        result = await ask(engine, request("a", self.prompts[0], policy))
        assert result.probes >= len(result.observations) > 0
        assert result.tokens.probe >= result.probes

    async def test_a_policy_that_never_exits_changes_no_text(self, engine: Engine) -> None:
        policy = next(p for p in self.adaptive if p.needs_branch)
        patient = type(policy)(**{**_parameters(policy), **self.never})
        full = await ask(engine, request("a", self.prompts[1]))
        probed = await ask(engine, request("b", self.prompts[1], patient))
        assert (probed.thinking, probed.text) == (full.thinking, full.text)
        assert probed.tokens.thinking == full.tokens.thinking
        assert probed.probes > 0

    never: ClassVar[dict[str, Any]] = {"patience": 1000}

    async def test_max_tokens_ends_decoding(self, engine: Engine) -> None:
        result = await ask(engine, request("a", self.prompts[0], max_tokens=9))
        assert result.finish_reason is FinishReason.LENGTH
        assert result.tokens.decoded == 9
        assert result.exit is not None
        assert result.exit.reason is ExitReason.LENGTH

    async def test_a_stop_string_ends_the_answer_and_is_no_part_of_it(self, engine: Engine) -> None:
        full = await ask(engine, request("a", self.prompts[0]))
        for width in (1, 2):
            stop = full.text[-width:]
            heard = await hear(engine, request(f"s{width}", self.prompts[0], stop=(stop, "never said")))
            assert heard.result is not None
            assert heard.result.finish_reason is FinishReason.STOP
            assert heard.result.text == full.text[: full.text.index(stop)]
            assert heard.text(DeltaKind.ANSWER) == heard.result.text
            assert heard.result.tokens.answer < full.tokens.answer
            assert heard.result.failures == ()

    async def test_a_stop_string_within_the_thought_ends_nothing(self, engine: Engine) -> None:
        full = await ask(engine, request("a", self.prompts[0]))
        thought = full.thinking[:3]
        assert thought not in full.text
        stopped = await ask(engine, request("s", self.prompts[0], stop=(thought,)))
        assert (stopped.thinking, stopped.text, stopped.finish_reason) == (full.thinking, full.text, FinishReason.STOP)

    async def test_what_could_begin_a_stop_string_comes_in_the_end(self, engine: Engine) -> None:
        full = await ask(engine, request("a", self.prompts[0]))
        heard = await hear(engine, request("s", self.prompts[0], stop=(full.text[-1:] + "and more",)))
        assert heard.result is not None
        assert heard.result.text == full.text == heard.text(DeltaKind.ANSWER)

    async def test_many_at_once_each_get_their_own(self, engine: Engine) -> None:
        alone = [await ask(engine, request(f"s{i}", prompt)) for i, prompt in enumerate(self.prompts)]
        asked = [request(f"m{i}", self.prompts[i % len(self.prompts)]) for i in range(32)]
        together = await asyncio.gather(*(ask(engine, one) for one in asked))
        equal = sum(result.text == alone[i % len(alone)].text for i, result in enumerate(together))
        # Greedy decoding varies with the batch on some engines; a mix-up would show in most.
        assert equal >= 30

    async def test_cancelling_ends_a_request_with_what_was_decoded(self, engine: Engine) -> None:
        heard, cancelled = Heard(), False
        async for event in engine.generate(request("a", self.prompts[0])):
            if isinstance(event, Finished):
                heard.result = event.result
            else:
                heard.deltas.append(event)
                if not cancelled:
                    engine.cancel("a")
                    cancelled = True
        assert heard.result is not None
        assert heard.result.finish_reason is FinishReason.CANCELLED
        assert 0 < heard.result.tokens.thinking < 60
        assert heard.text(DeltaKind.THINKING) == heard.result.thinking

    async def test_an_iterator_that_is_closed_leaves_room_for_its_id(self, engine: Engine) -> None:
        events: AsyncIterator[Any] = engine.generate(request("a", self.prompts[0]))
        await anext(events)
        await events.aclose()  # type: ignore[attr-defined]
        async with asyncio.timeout(60):  # only so that it ends at all
            while not await _is_taken(engine, request("a", self.prompts[0])):  # still leaving
                await asyncio.sleep(0.01)

    async def test_an_id_in_flight_is_refused(self, engine: Engine) -> None:
        events: AsyncIterator[Any] = engine.generate(request("a", self.prompts[0]))
        await anext(events)
        with pytest.raises(EngineError, match="a is already being decoded"):
            await ask(engine, request("a", self.prompts[1]))
        await events.aclose()  # type: ignore[attr-defined]

    async def test_an_unknown_id_is_not_cancelled(self, engine: Engine) -> None:
        engine.cancel("nobody")

    async def test_a_prompt_beyond_the_context_fails_alone(self, engine: Engine) -> None:
        long = request("long", " ".join([self.prompts[0]] * self.too_long))
        other, failed = await asyncio.gather(
            ask(engine, request("a", self.prompts[0])), ask(engine, long), return_exceptions=True
        )
        assert isinstance(other, GenerationResult)
        assert other.answer
        assert isinstance(failed, EngineError)
        assert (failed.code, failed.invalid_request) == ("context_length_exceeded", True)

    too_long: ClassVar[int] = 200


async def _is_taken(engine: Engine, asked: GenerationRequest) -> bool:
    try:
        return bool((await ask(engine, asked)).answer)
    except EngineError as error:
        if error.code != "duplicate_request":
            raise
        return False


def _parameters(policy: Policy) -> dict[str, Any]:
    from experiments.policies import policy_to_spec

    return dict(policy_to_spec(policy)["parameters"])
