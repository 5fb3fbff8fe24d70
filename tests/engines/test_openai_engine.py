"""The engine of remote servers keeps the contract, as far as each kind of server lets it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, ClassVar

import pytest
from aiohttp import web

from experiments.policies import (
    AnswerConvergence,
    Confidence,
    EndMargin,
    EntropyPlateau,
    ExitReason,
    Full,
    Plateau,
    RunJump,
    TokenBudget,
)
from experiments.remote_server import Budget, Continues, RemoteServer, Tokens, Usage
from tests.engines.contract import EngineContract, ask, request
from tests.engines.openai_server import PROFILE, Behaviour, ScriptedServer, settling, write_tokenizer
from workers.engines.base import EngineError, FinishReason
from workers.engines.openai_engine.engine import OpenAIEngine

SCRIPTS = {f"question {n}": settling(100 + n) for n in range(6)}
KEY = "sk-very-secret-key"
IDS: Mapping[str, Any] = {"tokens": Tokens.IDS, "continues": Continues.COMPLETIONS, "logprobs": True}
BRANCHES = (
    AnswerConvergence(patience=2, probe_every=16),
    Confidence(threshold=0.9, patience=2, probe_every=32),
    Plateau(patience=2, probe_every=16),
    RunJump(min_jump=2, probe_every=16),
)

Start = Callable[..., Awaitable[tuple[OpenAIEngine, ScriptedServer]]]


@pytest.fixture(scope="session")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
async def start(tokenizer_path: str) -> AsyncIterator[Start]:
    """Starts a server that behaves in some way, and an engine with options of RemoteServer in front of it."""
    async with AsyncExitStack() as stack:

        async def begin(behaviour: Behaviour | None = None, **options: Any) -> tuple[OpenAIEngine, ScriptedServer]:
            scripted = ScriptedServer(SCRIPTS, behaviour, tokenizer_path)
            url = await stack.enter_async_context(scripted.running())
            server = RemoteServer(**{"base_url": url, "model": "scripted", "retries": 0, **options})
            engine = OpenAIEngine(server, PROFILE, key=KEY, tokenizer_path=tokenizer_path)
            await engine.start()
            stack.push_async_callback(engine.close)
            return engine, scripted

        yield begin


class RemoteContract(EngineContract):
    """The contract over one kind of server."""

    prompts = tuple(SCRIPTS)
    wrap_up = "enough of this\n"
    lag = 64
    too_long = 60
    adaptive = BRANCHES
    options: ClassVar[Mapping[str, Any]]
    behaviour: ClassVar[Mapping[str, Any]] = {}

    @pytest.fixture
    async def engine(self, start: Start) -> OpenAIEngine:
        return (await start(Behaviour(**self.behaviour), **self.options))[0]


class TestTokenIds(RemoteContract):
    options = IDS


class TestTokenIdsWithThePlugin(RemoteContract):
    options = IDS | {"budget": Budget.CURTAIL}
    adaptive = (EndMargin(threshold=6.0), *BRANCHES)


class TestTokenIdsWithVLLMsBudget(RemoteContract):
    options = IDS | {"budget": Budget.THINKING_TOKEN_BUDGET}


class TestTextOfCompletions(RemoteContract):
    options: ClassVar = {"continues": Continues.COMPLETIONS, "logprobs": True, "usage": Usage.CHUNKS}


class TestChatsThatAreContinued(RemoteContract):
    options: ClassVar = {
        "continues": Continues.CHAT,
        "logprobs": True,
        "usage": Usage.CHUNKS,
        "reasoning_fields": True,
    }
    behaviour: ClassVar = {"reasoning_field": "reasoning_content"}


class TestChatsWithTagsInTheText(RemoteContract):
    options: ClassVar = {"continues": Continues.CHAT, "logprobs": True}
    behaviour: ClassVar = {"reasoning_field": ""}


class TestChatsThatArePassedOn(TestChatsThatAreContinued):
    """Under `full` and without a cap nothing is to be decided."""

    options: ClassVar = {**TestChatsThatAreContinued.options, "reasoning_usage": True}
    behaviour: ClassVar = {"reasoning_field": "reasoning_content", "reasoning_usage": True}


# -- a hosted API: chats only, thoughts in a field of their own, usage at the end ---------------------------------

HOSTED: Mapping[str, Any] = {"reasoning_fields": True}
HOSTED_BEHAVIOUR = Behaviour(reasoning_field="reasoning_content", reasoning_usage=True, per_chunk=3)


async def test_a_hosted_api_serves_full_and_its_usage_gives_the_counts(start: Start) -> None:
    engine, _ = await start(HOSTED_BEHAVIOUR, **HOSTED)
    result = await ask(engine, request("a", "question 3"))
    assert (result.thinking, result.text) == ("".join(SCRIPTS["question 3"].thinking), "103")
    assert (result.tokens.thinking, result.tokens.answer, result.tokens.estimated) == (121, 4, ())
    assert result.tokens.prompt > 10
    assert result.exit is not None
    assert (result.exit.reason, result.exit.decision_step) == (ExitReason.END_OF_THINKING, 121)


async def test_a_request_without_a_stream_is_asked_for_in_one_piece(start: Start) -> None:
    engine, scripted = await start(HOSTED_BEHAVIOUR, reasoning_usage=True, **HOSTED)
    result = await ask(engine, request("a", "question 3", stream=False))
    assert "stream" not in scripted.seen[0].body
    assert (result.thinking, result.text) == ("".join(SCRIPTS["question 3"].thinking), "103")
    assert (result.tokens.thinking, result.tokens.answer, result.tokens.estimated) == (121, 4, ())
    assert result.exit is not None
    assert (result.exit.reason, result.exit.decision_step) == (ExitReason.END_OF_THINKING, 121)


async def test_what_is_passed_on_is_what_a_driver_makes_of_it(start: Start) -> None:
    relaying, _ = await start(HOSTED_BEHAVIOUR, reasoning_usage=True, **HOSTED)
    driving, _ = await start(HOSTED_BEHAVIOUR, **HOSTED)
    for number in range(6):
        for options in ({}, {"max_tokens": 50}, {"max_tokens": 123}):
            asked = request("a", f"question {number}", **options)
            passed, driven = await ask(relaying, asked), await ask(driving, asked)
            assert dataclasses.replace(passed, queued_seconds=0.0) == dataclasses.replace(driven, queued_seconds=0.0)


async def test_counts_that_no_server_told_are_marked_as_estimates(start: Start) -> None:
    engine, _ = await start(Behaviour(per_chunk=3), usage=Usage.NONE, **HOSTED)
    result = await ask(engine, request("a", "question 3"))
    assert result.text == "103"
    assert result.tokens.estimated == ("answer", "overrun", "prompt", "thinking")


async def test_a_total_without_its_split_is_an_estimate_of_the_kinds(start: Start) -> None:
    engine, _ = await start(Behaviour(per_chunk=3), **HOSTED)
    tokens = (await ask(engine, request("a", "question 3"))).tokens
    assert tokens.decoded == 125
    assert tokens.estimated == ("answer", "overrun", "thinking")


async def test_a_hosted_api_that_hides_its_thoughts_tells_how_many_there_were(start: Start) -> None:
    engine, _ = await start(Behaviour(reasoning_field="hidden", reasoning_usage=True), **HOSTED)
    result = await ask(engine, request("a", "question 3"))
    assert (result.thinking, result.text) == ("", "103")
    assert (result.tokens.thinking, result.tokens.estimated) == (121, ())


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"budget": Budget.THINKING_TOKEN_BUDGET}, ("thinking_token_budget", 40)),
        ({"budget": Budget.THINKING}, ("thinking", {"type": "enabled", "budget_tokens": 40})),
        ({"budget": Budget.REASONING_EFFORT, "efforts": {"low": 8, "high": 40}}, ("reasoning_effort", "high")),
    ],
)
async def test_a_budget_is_told_to_the_server_in_its_own_words(
    start: Start, options: dict[str, Any], field: tuple[str, Any]
) -> None:
    engine, scripted = await start(Behaviour(reasoning_usage=True), **HOSTED, **options)
    result = await ask(engine, request("a", "question 3", TokenBudget(max_thinking_tokens=50), client_cap=40))
    assert scripted.seen[0].body[field[0]] == field[1]
    assert len(scripted.seen) == 1
    assert len(result.thinking) == 40
    assert result.exit is not None
    assert result.exit.reason is ExitReason.CLIENT_CAP


@pytest.mark.parametrize(
    "policy",
    [
        TokenBudget(max_thinking_tokens=9),
        AnswerConvergence(),
        EndMargin(),
        EntropyPlateau(),
        Full(max_thinking_tokens=9),
    ],
)
async def test_what_a_plain_server_cannot_do_is_refused_before_anything_is_sent(start: Start, policy: Any) -> None:
    engine, scripted = await start(**HOSTED)
    with pytest.raises(EngineError) as caught:
        await ask(engine, request("a", "question 3", policy))
    assert (caught.value.code, caught.value.invalid_request) == ("unsupported", True)
    assert policy.name in str(caught.value)
    assert scripted.seen == []


async def test_a_recorded_thought_is_refused(start: Start) -> None:
    engine, _ = await start(**HOSTED)
    with pytest.raises(EngineError, match="feeds no recorded thoughts"):
        await ask(engine, request("a", "question 3", forced_thinking="w00"))


# -- cut and continue ----------------------------------------------------------------------------------------------


async def test_a_cut_leaves_the_stream_and_continues_behind_the_end_of_thinking(start: Start) -> None:
    engine, scripted = await start(Behaviour(pause_seconds=0.005), continues=Continues.COMPLETIONS, usage=Usage.CHUNKS)
    policy = TokenBudget(max_thinking_tokens=50, wrap_up="so:\n")
    result = await ask(engine, request("a", "question 3", policy))
    first, second = (seen.body["prompt"] for seen in scripted.seen)
    assert second == first + "".join(SCRIPTS["question 3"].thinking[:50]) + "so:\n</think>"
    assert result.text == "103"
    assert (result.tokens.thinking, result.tokens.overrun, result.tokens.answer) == (50, 5, 4)
    assert scripted.left
    assert scripted.left[0] < 60


async def test_a_chat_is_continued_with_the_thought_in_its_last_message(start: Start) -> None:
    engine, scripted = await start(continues=Continues.CHAT, usage=Usage.CHUNKS, reasoning_fields=True)
    result = await ask(engine, request("a", "question 3", TokenBudget(max_thinking_tokens=50)))
    body = scripted.seen[1].body
    thought = "".join(SCRIPTS["question 3"].thinking[:50])
    assert body["messages"][-1] == {"role": "assistant", "content": f"<think>{thought}</think>"}
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert result.text == "103"


async def test_what_the_servers_cache_held_is_not_prefilled(start: Start) -> None:
    engine, scripted = await start(Behaviour(cached=30), **IDS)
    result = await ask(engine, request("a", "question 3", TokenBudget(max_thinking_tokens=50)))
    assert result.tokens.prefill == len(scripted.seen[1].body["prompt"]) - 30
    assert result.tokens.estimated == ()


async def test_an_unknown_prefill_is_its_upper_bound_and_marked(start: Start) -> None:
    engine, scripted = await start(**IDS)
    result = await ask(engine, request("a", "question 3", TokenBudget(max_thinking_tokens=50)))
    assert result.tokens.prefill == len(scripted.seen[1].body["prompt"])
    assert result.tokens.estimated == ("prefill",)


async def test_pieces_of_several_tokens_make_a_cut_an_estimate(start: Start) -> None:
    engine, _ = await start(Behaviour(per_chunk=6, cached=0), continues=Continues.COMPLETIONS, usage=Usage.CHUNKS)
    full = await ask(engine, request("a", "question 3"))
    assert (full.tokens.thinking, full.tokens.answer, full.tokens.estimated) == (121, 4, ())
    cut = await ask(engine, request("b", "question 3", TokenBudget(max_thinking_tokens=50)))
    assert cut.tokens.estimated == ("answer", "overrun", "thinking")
    assert full.thinking.startswith(cut.thinking)


@pytest.mark.parametrize("continues", [Continues.COMPLETIONS, Continues.CHAT])
async def test_tokens_that_are_told_with_their_piece_make_a_cut_exact(start: Start, continues: Continues) -> None:
    options = {"continues": continues, "usage": Usage.CHUNKS, "logprobs": True, "reasoning_fields": True}
    engine, _ = await start(Behaviour(per_chunk=7, cached=0), **options)
    result = await ask(engine, request("b", "question 3", TokenBudget(max_thinking_tokens=50)))
    assert (result.tokens.thinking, result.tokens.overrun, result.tokens.answer) == (50, 1, 4)
    assert len(result.thinking) == 50
    assert result.tokens.estimated == ()


async def test_an_exit_of_the_plugin_is_recorded_with_its_margin(start: Start) -> None:
    engine, _ = await start(**IDS, budget=Budget.CURTAIL)
    result = await ask(engine, request("a", "question 3", EndMargin(threshold=1.0)))
    assert result.exit is not None
    assert (result.exit.reason, result.exit.decision_step) == (ExitReason.END_NEAR, 60)
    assert [round(seen.end_margin or 0, 6) for seen in result.observations] == [1.0]


async def test_a_cap_of_the_plugin_is_told_from_the_models_own_end(start: Start) -> None:
    engine, _ = await start(**IDS, budget=Budget.CURTAIL)
    result = await ask(engine, request("a", "question 3", EndMargin(threshold=0.0, max_thinking_tokens=30)))
    assert result.exit is not None
    assert (result.exit.reason, result.exit.decision_step) == (ExitReason.HARD_CAP, 30)


# -- leaving -------------------------------------------------------------------------------------------------------


async def test_a_client_that_leaves_closes_the_connection(start: Start) -> None:
    engine, scripted = await start(Behaviour(pause_seconds=0.005), **IDS)
    events = engine.generate(request("a", "question 3"))
    await anext(events)
    await events.aclose()  # type: ignore[attr-defined]
    async with asyncio.timeout(5):
        while scripted.streaming:
            await asyncio.sleep(0.001)
    assert scripted.left
    assert scripted.left[0] <= 4


async def test_leaving_takes_the_branches_along(start: Start) -> None:
    engine, scripted = await start(Behaviour(pause_seconds=0.01), **IDS)
    events = engine.generate(request("a", "question 3", AnswerConvergence(patience=50, probe_every=4)))
    async with asyncio.timeout(5):
        while scripted.streaming < 2:
            await anext(events)
    await events.aclose()  # type: ignore[attr-defined]
    async with asyncio.timeout(5):
        while scripted.streaming:
            await asyncio.sleep(0.001)
    assert scripted.left


async def test_closing_the_engine_ends_what_is_in_flight_with_an_error(start: Start) -> None:
    engine, scripted = await start(Behaviour(pause_seconds=0.01), **IDS)
    asked = asyncio.create_task(ask(engine, request("a", "question 3")))
    async with asyncio.timeout(5):
        while not scripted.streaming:
            await asyncio.sleep(0.001)
    await engine.close()
    with pytest.raises(EngineError, match="shut down"):
        await asked


# -- errors --------------------------------------------------------------------------------------------------------


async def failure(engine: OpenAIEngine) -> EngineError:
    """The error of a request; nothing of it may tell the key or the address."""
    with pytest.raises(EngineError) as caught:
        await ask(engine, request("a", "question 3"))
    assert KEY not in str(caught.value)
    assert "127.0.0.1" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("status", "code", "invalid"),
    [
        (400, "invalid_request", True),
        (404, "invalid_request", True),
        (422, "invalid_request", True),
        (401, "upstream_refused", False),
        (302, "upstream_error", False),
        (429, "overloaded", False),
        (500, "upstream_error", False),
        (503, "overloaded", False),
    ],
)
async def test_a_status_is_the_requests_fault_or_the_servers(
    start: Start, status: int, code: str, invalid: bool
) -> None:
    said = f'{{"error": {{"message": "see http://127.0.0.1:1/x and {KEY} and 127.0.0.1"}}}}'.encode()
    headers = {"Location": "http://127.0.0.1:1/elsewhere"} if status == 302 else {}
    engine, _ = await start(Behaviour(status=status, error=said, headers=headers), **IDS)
    error = await failure(engine)
    assert (error.code, error.invalid_request) == (code, invalid)


async def test_a_server_that_is_busy_is_asked_again(start: Start) -> None:
    engine, scripted = await start(Behaviour(status=503, failures=1), **IDS | {"retries": 1})
    assert (await ask(engine, request("a", "question 3"))).text == "103"
    assert len(scripted.seen) == 2


async def test_a_request_that_is_at_fault_is_not_sent_again(start: Start) -> None:
    engine, scripted = await start(Behaviour(status=400), **IDS | {"retries": 3})
    await failure(engine)
    assert len(scripted.seen) == 1


async def test_a_server_that_is_not_there_is_unavailable(start: Start) -> None:
    engine, _ = await start(**IDS | {"base_url": "http://127.0.0.1:1/v1"})
    assert (await failure(engine)).code == "unavailable"


async def test_silence_ends_a_request(start: Start) -> None:
    engine, _ = await start(Behaviour(pause_seconds=5), **IDS | {"silence_seconds": 0.05})
    assert (await failure(engine)).code == "timeout"


def writes(data: bytes) -> Callable[[web.StreamResponse, int], Any]:
    """A fault that puts something into the stream before its fourth event."""
    return lambda response, number: response.write(data) if number == 3 else None


def cuts(response: web.StreamResponse, number: int) -> None:
    """A fault that drops the connection before the fourth event."""
    if number == 3:
        transport = response._req.transport if response._req else None
        assert transport is not None
        transport.abort()


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (writes(b"data: {not json\n\n"), "upstream_protocol"),
        (writes(b"data: [1]\n\n"), "upstream_protocol"),
        (writes(b'data: {"choices": [{"index": 0}]}\n\n'), "upstream_protocol"),
        (writes(b'data: {"error": {"message": "out of memory at 127.0.0.1", "code": 500}}\n\n'), "upstream_error"),
        (writes(b"data: [DONE]\n\n"), "upstream_cut"),
        (cuts, "upstream_cut"),
    ],
)
async def test_a_broken_stream_fails_its_own_request(start: Start, fault: Any, code: str) -> None:
    engine, scripted = await start(Behaviour(fault=fault), **IDS)
    assert (await failure(engine)).code == code
    scripted.behaviour.fault = None
    assert (await ask(engine, request("b", "question 3"))).finish_reason is FinishReason.STOP


async def test_the_key_travels_in_its_header_alone(start: Start) -> None:
    engine, scripted = await start(**IDS)
    await ask(engine, request("a", "question 3"))
    assert scripted.seen[0].authorization == f"Bearer {KEY}"
    assert KEY not in str(scripted.seen[0].body)


async def test_a_limit_of_the_servers_own_ends_a_request(start: Start) -> None:
    engine, scripted = await start(**HOSTED)
    scripted.default_limit = 30
    result = await ask(engine, request("a", "question 3"))
    assert result.finish_reason is FinishReason.LENGTH
    assert len(result.thinking) == 30
