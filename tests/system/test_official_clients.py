"""OpenAI's own clients, in Python and JavaScript, against a gateway in front of a remote server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import redis

from experiments.models import Admission, Completion
from tests.clients.javascript_client import JavaScriptClient, installed
from tests.engines.openai_server import Behaviour, ScriptedServer, settling
from tests.system.conftest import Installation, running, wait_for
from tests.system.test_remote_upstream import remote_use_case, served

SURE = {"name": "confidence", "parameters": {"threshold": 0.9, "patience": 2, "probe_every": 32}}
MESSAGES: Any = [{"role": "user", "content": "3+4"}]
ASKED: dict[str, Any] = {"model": "remote", "messages": MESSAGES}
TOOLS: Any = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 3}'}}
USAGE = {
    "prompt_tokens": 5,
    "completion_tokens": 12,
    "total_tokens": 17,
    "completion_tokens_details": {"reasoning_tokens": 8},
}
WHOLE = {
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [CALL]},
            "finish_reason": "tool_calls",
            "logprobs": None,
        }
    ],
    "usage": USAGE,
}
CHUNKS: list[dict[str, Any]] = [
    {"choices": [{"index": 0, "delta": {"role": "assistant", "content": None}, "finish_reason": None}]},
    {"choices": [{"index": 0, "delta": {"reasoning_content": "hm"}, "finish_reason": None}]},
    {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, **CALL}]}, "finish_reason": None}]},
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
    {"choices": [], "usage": USAGE},
]
THOUGHT = "".join(f"w{n:02d}\n" for n in range(30))


@pytest.fixture
def upstream() -> ScriptedServer:
    """A server that thinks and answers 7412."""
    return ScriptedServer({"3+4": settling(7412)}, Behaviour())


@pytest.fixture
def installation(
    transactional_db: None, redis_client: redis.Redis, upstream: ScriptedServer, tmp_path: Path
) -> Iterator[Installation]:
    """A gateway and a ledger writer; no engine host."""
    with served(upstream) as url, running(remote_use_case(tmp_path, url, logprobs=True), redis_client) as started:
        yield started


@pytest.fixture
def python(installation: Installation) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=installation.token, base_url=f"{installation.url}/v1", max_retries=0) as api:
        yield api


@pytest.fixture
def javascript(installation: Installation) -> JavaScriptClient:
    return JavaScriptClient(installed(), f"{installation.url}/v1", installation.token)


def stored(request_id: str) -> Completion:
    wait_for(lambda: Completion.objects.filter(pk=request_id).exists())
    return Completion.objects.get(pk=request_id)


# -- Python ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_python_gets_the_answer_up_to_a_stop_string(python: openai.OpenAI, stream: bool) -> None:
    answer: Any = python.chat.completions.create(**ASKED, stop=["12", "w00"], stream=stream)
    if stream:
        choices = [chunk.choices[0] for chunk in answer if chunk.choices]
        assert "".join(getattr(choice.delta, "reasoning", None) or "" for choice in choices) == THOUGHT
        assert "".join(choice.delta.content or "" for choice in choices) == "74"
        assert choices[-1].finish_reason == "stop"
    else:
        assert answer.choices[0].message.reasoning == THOUGHT
        assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("74", "stop")
        assert stored(answer.id).text == "74"


def test_python_gets_a_plain_completion(python: openai.OpenAI, upstream: ScriptedServer) -> None:
    answer = python.completions.create(model="remote", prompt="3+4", stop="2")
    assert (answer.object, answer.choices[0].text, answer.choices[0].finish_reason) == (
        "text_completion",
        "741",
        "stop",
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == stored(answer.id).decoded_tokens
    assert upstream.seen[0].body["messages"] == [{"role": "user", "content": "3+4"}]


def test_python_gets_a_plain_completion_as_a_stream(python: openai.OpenAI) -> None:
    options: Any = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(python.completions.create(model="remote", prompt=["3+4"], **options))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == "7412"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert {chunk.object for chunk in chunks} == {"text_completion"}


def test_python_lists_the_names_that_its_key_may_ask_for(python: openai.OpenAI) -> None:
    names = [model.id for model in python.models.list()]
    assert names == ["remote"]
    assert python.models.retrieve(names[0]).id == "remote"
    with pytest.raises(openai.NotFoundError):
        python.models.retrieve("another")
    assert python.chat.completions.create(model=names[0], messages=MESSAGES).choices[0].message.content == "7412"


def test_python_gets_tool_calls_under_full_while_an_experiment_runs(
    python: openai.OpenAI, installation: Installation, upstream: ScriptedServer
) -> None:
    experiment = installation.start_experiment(SURE, unit="user")
    upstream.behaviour.verbatim = [WHOLE]
    raw = python.chat.completions.with_raw_response.create(**ASKED, tools=TOOLS, user="u-1")
    answer = raw.parse()
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    assert choice.message.tool_calls[0].model_dump(exclude_none=True) == CALL
    assert raw.headers["x-curtail-ineligible"] == "tools"
    curtail: Any = answer.curtail  # type: ignore[attr-defined]
    assert (curtail["ineligible"], curtail["policy"]["name"], curtail["experiment"]) == (["tools"], "full", None)
    assert upstream.seen[0].body["tools"] == TOOLS
    completion = stored(answer.id)
    assert (completion.outcome, completion.finish_reason, completion.thinking_tokens) == ("answered", "tool_calls", 8)
    admission = Admission.objects.get(pk=answer.id)
    assert (admission.phase_id, admission.variant_id, admission.unit_hash) == (None, None, "")
    assert experiment.phase is not None


def test_pythons_helper_puts_a_stream_of_tool_calls_together(python: openai.OpenAI, upstream: ScriptedServer) -> None:
    upstream.behaviour.verbatim = CHUNKS
    with python.chat.completions.stream(**ASKED, tools=TOOLS, stream_options={"include_usage": True}) as stream:
        final = stream.get_final_completion()
    choice = final.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    assert choice.message.tool_calls[0].function.arguments == '{"a": 3}'
    assert final.usage is not None
    assert final.usage.completion_tokens == 12


def test_a_conversation_with_tool_results_goes_on_as_it_is(python: openai.OpenAI, upstream: ScriptedServer) -> None:
    upstream.behaviour.verbatim = [WHOLE]
    said: Any = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "7"},
    ]
    answer = python.chat.completions.create(model="remote", messages=said, tools=TOOLS)
    assert upstream.seen[0].body["messages"] == said
    assert stored(answer.id).outcome == "answered"


def test_python_gets_several_choices(python: openai.OpenAI, upstream: ScriptedServer) -> None:
    choices = [
        {"index": at, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        for at, text in enumerate("ab")
    ]
    upstream.behaviour.verbatim = [{"choices": choices, "usage": USAGE}]
    answer = python.chat.completions.create(**ASKED, n=2)
    assert [choice.message.content for choice in answer.choices] == ["a", "b"]
    assert upstream.seen[0].body["n"] == 2


def test_python_gets_logprobs_in_a_stream_and_what_curtail_did_with_its_end(
    python: openai.OpenAI, upstream: ScriptedServer
) -> None:
    told = {"content": [{"token": "7", "logprob": -0.1, "bytes": [55], "top_logprobs": []}]}
    ended = {"index": 0, "delta": {}, "finish_reason": "stop"}
    upstream.behaviour.verbatim = [
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "7"}, "logprobs": told}]},
        {"choices": [ended]},
        {"choices": [], "usage": USAGE},
    ]
    answer: Any = python.chat.completions.create(**ASKED, logprobs=True, top_logprobs=0, stream=True)
    first, last = list(answer)
    assert first.choices[0].logprobs.content[0].logprob == -0.1
    assert (last.choices[0].finish_reason, last.curtail["exit"]["reason"]) == ("stop", "end_of_thinking")
    assert {name: upstream.seen[0].body[name] for name in ("logprobs", "top_logprobs")} == {
        "logprobs": True,
        "top_logprobs": 0,
    }


@pytest.mark.parametrize(
    ("options", "param"),
    [({"stop": ""}, "stop"), ({"tools": []}, "tools"), ({"extra_body": {"novelty": 1}}, "novelty")],
)
def test_python_is_told_what_was_wrong(python: openai.OpenAI, options: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        python.chat.completions.create(**ASKED, **options)
    assert (caught.value.status_code, caught.value.param) == (400, param)


# -- JavaScript ------------------------------------------------------------------------------------------------------


def test_javascript_gets_the_answer_up_to_a_stop_string(javascript: JavaScriptClient) -> None:
    data = javascript.ask("chat", **ASKED, stop=["12"])["data"]
    assert (data["choices"][0]["message"]["content"], data["choices"][0]["finish_reason"]) == ("74", "stop")
    assert data["choices"][0]["message"]["reasoning"] == THOUGHT
    assert data["usage"]["completion_tokens"] == stored(data["id"]).decoded_tokens


def test_javascript_gets_a_stream_with_usage(javascript: JavaScriptClient) -> None:
    chunks = javascript.ask("chatChunks", **ASKED, stream_options={"include_usage": True})
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    assert "".join(delta.get("reasoning", "") for delta in deltas) == THOUGHT
    assert "".join(delta.get("content", "") for delta in deltas) == "7412"
    assert chunks[-1]["usage"]["completion_tokens"] == stored(chunks[-1]["id"]).decoded_tokens


def test_javascripts_helper_puts_a_stream_together(javascript: JavaScriptClient) -> None:
    final = javascript.ask("chatHelper", **ASKED)
    assert (final["choices"][0]["message"]["content"], final["choices"][0]["finish_reason"]) == ("7412", "stop")


def test_javascripts_helper_puts_a_stream_of_tool_calls_together(
    javascript: JavaScriptClient, upstream: ScriptedServer
) -> None:
    upstream.behaviour.verbatim = CHUNKS
    final = javascript.ask("chatHelper", **ASKED, tools=TOOLS)
    (choice,) = final["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"][0]["function"] == CALL["function"]


def test_javascript_sees_that_full_served_its_tools(
    javascript: JavaScriptClient, installation: Installation, upstream: ScriptedServer
) -> None:
    installation.start_experiment(SURE, unit="user")
    upstream.behaviour.verbatim = [WHOLE]
    answer = javascript.ask("chat", **ASKED, tools=TOOLS, user="u-1")
    assert answer["ineligible"] == "tools"
    assert answer["data"]["choices"][0]["message"]["tool_calls"] == [CALL]


def test_javascript_gets_plain_completions(javascript: JavaScriptClient) -> None:
    whole = javascript.ask("text", model="remote", prompt="3+4")
    assert whole["choices"][0]["text"] == "7412"
    chunks = javascript.ask("textChunks", model="remote", prompt="3+4")
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "7412"


def test_javascript_lists_models(javascript: JavaScriptClient) -> None:
    assert [model["id"] for model in javascript.ask("models")] == ["remote"]


def test_javascript_is_told_what_was_wrong(javascript: JavaScriptClient) -> None:
    error = javascript.refused("chat", **ASKED, stop="")
    assert error == {
        "name": "BadRequestError",
        "status": 400,
        "code": "invalid_value",
        "param": "stop",
        "type": "invalid_request_error",
    }


def test_the_lock_file_pins_version_and_content_of_the_client() -> None:
    lock = json.loads((Path(__file__).parents[1] / "clients/javascript/package-lock.json").read_text())
    found = lock["packages"]["node_modules/openai"]
    assert found["version"] == lock["packages"][""]["dependencies"]["openai"]
    assert found["integrity"].startswith("sha512-")
