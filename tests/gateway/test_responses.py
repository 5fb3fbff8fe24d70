"""OpenAI's response shapes."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from experiments.gateway import responses
from experiments.gateway.admission import Admitted
from experiments.gateway.chat_request import ChatRequest, parse_chat_request
from experiments.gateway.dialect import ReasoningField
from experiments.gateway.responses import ChatShape, TextShape
from experiments.routing import Arm, Assignment, Route, RunningExperiment

ARM = Arm(1, {"name": "confidence", "parameters": {}}, "v1", 11, "short")
EXPERIMENT = RunningExperiment(7, 8, "salt", "user", ((0, 1),), (ARM,))
RECORD: dict[str, Any] = {
    "text": "4",
    "thinking": "2+2",
    "finish_reason": "stop",
    "exit_reason": "confident",
    "exit_detail": "sure",
    "decision_step": 30,
    "applied_step": 30,
    "prompt_tokens": 5,
    "thinking_tokens": 30,
    "overrun_tokens": 1,
    "answer_tokens": 4,
    "probe_tokens": 6,
}


ROUTE = Route(1, "s", "tiny", 0.0, 60.0, ARM, (EXPERIMENT,))
TOOL = {"type": "function", "function": {"name": "add"}}


def admitted(assignment: Assignment | None = None, ineligible: tuple[str, ...] = ()) -> Admitted:
    return Admitted("id-1", ROUTE, assignment or Assignment(ARM, EXPERIMENT, "u"), 99.5, 159.5, ineligible=ineligible)


def request(**fields: Any) -> ChatRequest:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "2+2"}], **fields}
    return parse_chat_request(orjson.dumps(body))


def chat(field: ReasoningField = ReasoningField.REASONING, **fields: Any) -> ChatShape:
    return ChatShape(admitted(), request(**fields), field)


def test_usage_counts_as_openai_does_and_shows_probes_apart() -> None:
    assert responses.usage(RECORD) == {
        "prompt_tokens": 5,
        "completion_tokens": 35,
        "total_tokens": 40,
        "completion_tokens_details": {"reasoning_tokens": 31},
        "curtail": {"probe_tokens": 6, "decoded_tokens": 41},
    }


def test_a_completion_fits_the_official_client() -> None:
    body = chat().whole(RECORD)
    parsed = ChatCompletion.model_validate(body)
    assert (parsed.id, parsed.created, parsed.model) == ("id-1", 99, "tiny")
    assert parsed.choices[0].message.content == "4"
    assert parsed.choices[0].finish_reason == "stop"
    assert parsed.usage is not None
    assert parsed.usage.total_tokens == 40
    assert body["choices"][0]["message"]["reasoning"] == "2+2"


def test_the_extension_tells_arm_and_applied_exit() -> None:
    assert responses.curtail_extension(RECORD, admitted()) == {
        "experiment": 7,
        "variant": "short",
        "policy": {"name": "confidence", "parameters": {}},
        "exit": {"reason": "confident", "decision_step": 30, "applied_step": 30, "detail": "sure"},
    }


def test_outside_experiments_the_extension_names_none() -> None:
    unexposed = admitted(Assignment(Arm(1, {"name": "full"}, "v0"), None, ""))
    found = responses.curtail_extension(RECORD, unexposed)
    assert (found["experiment"], found["variant"]) == (None, None)


def test_what_no_policy_is_made_for_is_shown_in_body_and_header() -> None:
    set_aside = admitted(ineligible=("n", "tools"))
    assert responses.curtail_extension(RECORD, set_aside)["ineligible"] == ["n", "tools"]
    assert set_aside.headers["x-curtail-ineligible"] == "n, tools"


def test_the_clients_cap_is_shown_where_it_sent_one() -> None:
    assert responses.curtail_extension(RECORD, admitted(), 7)["client_cap"] == 7


@pytest.mark.parametrize(("finish_reason"), ["stop", "length"])
def test_chunks_fit_the_official_client(finish_reason: str) -> None:
    shape, record = chat(), {**RECORD, "finish_reason": finish_reason}
    chunks = [shape.opening(), shape.text("thinking", "hm"), shape.text("answer", "4"), shape.ending(record, None)]
    choices = [ChatCompletionChunk.model_validate(chunk).choices[0] for chunk in chunks]
    assert [choice.delta.model_dump(exclude_unset=True) for choice in choices] == [
        {"role": "assistant", "content": ""},
        {"reasoning": "hm"},
        {"content": "4"},
        {},
    ]
    assert [choice.finish_reason for choice in choices] == [None, None, None, finish_reason]


def test_the_usage_chunk_has_no_choices() -> None:
    parsed = ChatCompletionChunk.model_validate(chat().usage(RECORD))
    assert parsed.choices == []
    assert parsed.usage is not None
    assert parsed.usage.completion_tokens == 35


@pytest.mark.parametrize(
    ("field", "names"),
    [
        (ReasoningField.REASONING, {"reasoning"}),
        (ReasoningField.REASONING_CONTENT, {"reasoning_content"}),
        (ReasoningField.BOTH, {"reasoning", "reasoning_content"}),
    ],
)
def test_thinking_comes_under_the_configured_names(field: ReasoningField, names: set[str]) -> None:
    shape = chat(field)
    message = shape.whole(RECORD)["choices"][0]["message"]
    assert {name: message[name] for name in names} == dict.fromkeys(names, "2+2")
    assert set(message) == {"role", "content", *names}
    chunk = shape.text("thinking", "hm")
    assert chunk is not None
    assert chunk["choices"][0]["delta"] == dict.fromkeys(names, "hm")
    (passed,) = shape.passed([{"index": 1, "delta": {"reasoning_content": "so", "content": "x"}}])["choices"]
    assert passed == {"index": 1, "delta": {"content": "x", **dict.fromkeys(names, "so")}}


def test_a_servers_own_choices_come_back_as_they_are() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None}
    choices = [{"index": 0, "message": message, "finish_reason": "tool_calls", "logprobs": None, "own": 1}]
    body = chat(tools=[TOOL]).whole({**RECORD, "choices": choices})
    assert body["choices"] == choices
    parsed = ChatCompletion.model_validate(body).choices[0]
    assert parsed.message.tool_calls is not None
    assert parsed.message.tool_calls[0].id == "c1"


def test_a_server_opens_and_ends_its_own_choices() -> None:
    shape = chat(tools=[TOOL])
    assert shape.opening() is None
    last = shape.passed([{"index": 0, "delta": {}, "finish_reason": "tool_calls"}])
    ending = shape.ending(RECORD, last)
    assert ending["choices"] == last["choices"]
    assert ending["curtail"]["variant"] == "short"


def test_a_plain_completion_fits_the_official_client() -> None:
    body = TextShape(admitted(), request()).whole(RECORD)
    parsed = Completion.model_validate(body)
    assert (parsed.object, parsed.choices[0].text, parsed.choices[0].finish_reason) == ("text_completion", "4", "stop")
    assert parsed.usage is not None
    assert parsed.usage.completion_tokens == 35
    assert body["curtail"]["variant"] == "short"


def test_a_stream_of_a_plain_completion_has_the_answer_alone() -> None:
    shape = TextShape(admitted(), request())
    assert (shape.opening(), shape.text("thinking", "hm")) == (None, None)
    chunks = [shape.text("answer", "4") or {}, shape.ending(RECORD, None)]
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [(choice["text"], choice["finish_reason"]) for choice in choices] == [("4", None), ("", "stop")]
