"""Requests that a server gets as they are, and whose choices come back as they were sent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from experiments.policies import Confidence, ExitReason, Full, TokenBudget
from experiments.remote_server import Budget, Continues, RemoteServer, Tokens
from tests.engines.contract import ask, hear, request
from tests.engines.openai_server import PROFILE, Behaviour, ScriptedServer
from workers.engines.base import DeltaKind, EngineError, Finished, FinishReason, PassesOn
from workers.engines.openai_engine.engine import OpenAIEngine

CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
USAGE = {"prompt_tokens": 5, "completion_tokens": 12, "completion_tokens_details": {"reasoning_tokens": 8}}
WHOLE = {
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": None, "reasoning_content": "add them", "tool_calls": [CALL]},
            "finish_reason": "tool_calls",
        }
    ],
    "usage": USAGE,
}
TOOLS = {"tools": [{"type": "function", "function": {"name": "add"}}], "tool_choice": "auto"}


class Served:
    """An engine in front of a server that says what it is told to say."""

    def __init__(self, stack: AsyncExitStack, *said: dict[str, Any]) -> None:
        self._stack = stack
        self.server = ScriptedServer({}, Behaviour(verbatim=said))

    async def engine(self, **options: Any) -> OpenAIEngine:
        url = await self._stack.enter_async_context(self.server.running())
        engine = OpenAIEngine(RemoteServer(**{"base_url": url, "model": "m", "retries": 0, **options}), PROFILE)
        await engine.start()
        self._stack.push_async_callback(engine.close)
        return engine


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


def chunk(delta: dict[str, Any], index: int = 0, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": delta, "finish_reason": finish}]}


async def test_parameters_and_messages_reach_the_server_as_they_are(stack: AsyncExitStack) -> None:
    served = Served(stack, WHOLE)
    engine = await served.engine()
    messages = [
        {"role": "user", "content": "1+2"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "3"},
    ]
    asked = request("a", "", stream=False, passthrough={**TOOLS, "model": "mine", "n": 2}, stop=("END",))
    object.__setattr__(asked, "messages", messages)
    await ask(engine, asked)
    body = served.server.seen[0].body
    assert served.server.seen[0].path == "/v1/chat/completions"
    assert body["messages"] == messages
    assert {name: body[name] for name in (*TOOLS, "n", "stop", "model")} == {
        **TOOLS,
        "n": 2,
        "stop": ["END"],
        "model": "m",
    }


async def test_the_choices_come_back_and_the_record_has_the_first(stack: AsyncExitStack) -> None:
    result = await ask(await Served(stack, WHOLE).engine(), request("a", "x", stream=False, passthrough=TOOLS))
    assert list(result.choices) == WHOLE["choices"]
    assert (result.finish_reason, result.thinking, result.text) == (FinishReason.TOOL_CALLS, "add them", "")
    assert (result.tokens.prompt, result.tokens.thinking, result.tokens.answer) == (5, 8, 4)
    assert result.tokens.estimated == ()
    assert result.exit is not None
    assert result.exit.reason is ExitReason.END_OF_THINKING


async def test_a_stream_brings_every_choice_as_it_was_sent(stack: AsyncExitStack) -> None:
    events = [
        chunk({"role": "assistant", "content": ""}),
        chunk({"reasoning": "hm"}),
        chunk({"content": "one"}),
        chunk({"content": "two"}, index=1),
        chunk({}, finish="stop"),
        chunk({}, index=1, finish="length"),
        {"choices": [], "usage": USAGE},
    ]
    heard = await hear(await Served(stack, *events).engine(), request("a", "x", passthrough={"n": 2}))
    assert {delta.kind for delta in heard.deltas} == {DeltaKind.CHOICES}
    assert [list(delta.choices) for delta in heard.deltas] == [event["choices"] for event in events[:-1]]
    assert heard.result is not None
    assert (heard.result.text, heard.result.finish_reason) == ("one", FinishReason.STOP)
    assert heard.result.tokens.thinking + heard.result.tokens.answer == 12


@pytest.mark.parametrize("ending", ["content_filter", "a reason of its own"])
async def test_an_ending_of_the_servers_own_is_no_failure(stack: AsyncExitStack, ending: str) -> None:
    whole = {"choices": [{"index": 0, "message": {"content": "x"}, "finish_reason": ending}]}
    result = await ask(await Served(stack, whole).engine(), request("a", "x", stream=False, passthrough={"n": 1}))
    expected = FinishReason.CONTENT_FILTER if ending == "content_filter" else FinishReason.STOP
    assert result.finish_reason is expected
    assert result.choices[0]["finish_reason"] == ending


async def test_a_budget_is_told_to_a_server_that_has_one(stack: AsyncExitStack) -> None:
    served = Served(stack, WHOLE)
    engine = await served.engine(budget=Budget.THINKING_TOKEN_BUDGET)
    policy = TokenBudget(max_thinking_tokens=8)
    result = await ask(engine, request("a", "x", policy, stream=False, passthrough=TOOLS))
    assert served.server.seen[0].body["thinking_token_budget"] == 8
    assert result.exit is not None
    assert (result.exit.reason, result.exit.decision_step) == (ExitReason.TOKEN_BUDGET, 8)


async def test_a_cap_that_would_need_a_cut_is_refused(stack: AsyncExitStack) -> None:
    served = Served(stack, WHOLE)
    engine = await served.engine(continues=Continues.CHAT)
    with pytest.raises(EngineError, match="cannot be cut and continued") as caught:
        await ask(engine, request("a", "x", client_cap=5, passthrough=TOOLS))
    assert caught.value.invalid_request
    assert served.server.seen == []


async def test_an_engine_says_which_policies_it_applies_to_them(stack: AsyncExitStack) -> None:
    cutting = await Served(stack).engine(continues=Continues.CHAT)
    telling = await Served(stack).engine(budget=Budget.THINKING_TOKEN_BUDGET)
    assert isinstance(cutting, PassesOn)
    budget = TokenBudget(max_thinking_tokens=8)
    assert [engine.passing_refusal(Full()) for engine in (cutting, telling)] == [None, None]
    assert cutting.passing_refusal(budget) is not None
    assert telling.passing_refusal(budget) is None
    assert telling.passing_refusal(Confidence()) is not None


async def test_forwarded_sampling_reaches_the_request_and_not_its_trial_answers(stack: AsyncExitStack) -> None:
    server = ScriptedServer({}, Behaviour())
    url = await stack.enter_async_context(server.running())
    options: dict[str, Any] = {"continues": Continues.CHAT, "logprobs": True, "reasoning_fields": True}
    engine = OpenAIEngine(RemoteServer(base_url=url, model="m", tokens=Tokens.TEXT, **options), PROFILE)
    await engine.start()
    stack.push_async_callback(engine.close)
    policy = Confidence(threshold=0.9, patience=2, probe_every=32)
    await ask(engine, request("a", "x", policy, extra_sampling={"top_k": 3, "model": "mine"}))
    own, *branches = [seen.body for seen in server.seen]
    assert (own["top_k"], own["model"]) == (3, "m")
    probes = [body for body in branches if body.get("continue_final_message") and "top_k" not in body]
    assert probes


async def test_cancelling_ends_it_and_lets_go_of_the_server(stack: AsyncExitStack) -> None:
    served = Served(stack, *(chunk({"content": "a"}) for _ in range(1000)), chunk({}, finish="stop"))
    served.server.behaviour.pause_seconds = 0.005
    engine = await served.engine()
    result = None
    async for event in engine.generate(request("a", "x", passthrough=TOOLS)):
        if isinstance(event, Finished):
            result = event.result
        else:
            engine.cancel("a")
    assert result is not None
    assert result.finish_reason is FinishReason.CANCELLED
    assert 0 < len(result.text) < 1000


async def test_what_the_server_refuses_is_told_in_its_words(stack: AsyncExitStack) -> None:
    served = Served(stack, WHOLE)
    served.server.behaviour.status = 400
    served.server.behaviour.error = b'{"error": {"message": "tools[0].function.name is too long"}}'
    with pytest.raises(EngineError, match=r"refuses the request: tools\[0\]\.function\.name is too long") as caught:
        await ask(await served.engine(), request("a", "x", passthrough=TOOLS))
    assert caught.value.invalid_request
