"""The body of POST /v1/chat/completions: what is taken, what is refused, and how."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import pytest

from experiments.gateway.chat_request import ChatRequest, parse_chat_request
from experiments.gateway.dialect import Dialect, UnknownParameters
from experiments.gateway.errors import ApiError
from experiments.gateway.thinking_budget import read_effort_caps
from experiments.grading import MAX_REFERENCE_LENGTH
from experiments.policies import RequestFeature

SECRET = "the-reference-7f3a"
USER = {"role": "user", "content": "2+2"}


def parse(**fields: Any) -> ChatRequest:
    """Parse a small valid body with these fields on top."""
    return parse_chat_request(orjson.dumps({"model": "tiny", "messages": [USER], **fields}))


def refusal(body: bytes) -> dict[str, Any]:
    """The error object of a refused body."""
    with pytest.raises(ApiError) as caught:
        parse_chat_request(body)
    assert caught.value.status == 400
    error = caught.value.body()["error"]
    assert error["type"] == "invalid_request_error"
    return dict(error)


def refused(**fields: Any) -> dict[str, Any]:
    return refusal(orjson.dumps({"model": "tiny", "messages": [USER], **fields}))


def test_the_smallest_request_gets_the_defaults() -> None:
    assert parse() == ChatRequest(
        model="tiny",
        messages=[USER],
        stream=False,
        include_usage=False,
        temperature=None,
        top_p=1.0,
        seed=None,
        max_tokens=None,
        user=None,
        conversation=None,
        reference=None,
    )


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("stream", True, "stream", True),
        ("temperature", 0, "temperature", 0.0),
        ("temperature", 2, "temperature", 2.0),
        ("top_p", 0.9, "top_p", 0.9),
        ("top_p", 1, "top_p", 1.0),
        ("seed", -(2**63), "seed", -(2**63)),
        ("seed", 2**63 - 1, "seed", 2**63 - 1),
        ("max_tokens", 1, "max_tokens", 1),
        ("max_completion_tokens", 10**9, "max_tokens", 10**9),
        ("stop", "END", "stop", ("END",)),
        ("stop", ["a", "b", "c", "d"], "stop", ("a", "b", "c", "d")),
        ("stop", [], "stop", ()),
        ("user", "u-1", "user", "u-1"),
        ("metadata", {"conversation_id": "c-1"}, "conversation", "c-1"),
        ("metadata", {"reference": " 4 "}, "reference", " 4 "),
        ("metadata", {"reference": "x" * MAX_REFERENCE_LENGTH}, "reference", "x" * MAX_REFERENCE_LENGTH),
        ("metadata", {"team": "ours"}, "reference", None),
    ],
)
def test_an_accepted_parameter_reaches_its_field(name: str, value: object, field: str, expected: object) -> None:
    assert getattr(parse(**{name: value}), field) == expected


@pytest.mark.parametrize(
    "name",
    [
        "stream",
        "stream_options",
        "temperature",
        "top_p",
        "seed",
        "max_tokens",
        "max_completion_tokens",
        "stop",
        "n",
        "user",
        "metadata",
    ],
)
def test_null_means_not_given(name: str) -> None:
    assert parse(**{name: None}) == parse()


def test_n_of_one_is_accepted() -> None:
    assert parse(n=1) == parse()


def test_max_completion_tokens_comes_before_the_older_name() -> None:
    assert parse(max_tokens=5, max_completion_tokens=9).max_tokens == 9


def test_usage_is_included_on_demand_when_streaming() -> None:
    assert parse(stream=True, stream_options={"include_usage": True}).include_usage
    assert not parse(stream=True, stream_options={}).include_usage


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool"])
def test_every_role_is_taken(role: str) -> None:
    assert parse(messages=[{"role": role, "content": "x"}]).messages == [{"role": role, "content": "x"}]


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "2+"}, {"type": "text", "text": "2"}]
    assert parse(messages=[{"role": "user", "content": parts}]).messages == [USER]


def test_only_role_and_content_of_a_message_go_on() -> None:
    message = {**USER, "name": "ada", "reference": SECRET}
    assert parse(messages=[message]).messages == [USER]


@pytest.mark.parametrize(
    ("fields", "param", "code", "message"),
    [
        ({"model": None}, "model", "invalid_value", "model must be text, got None"),
        ({"model": ""}, "model", "invalid_value", "model must be text, got ''"),
        ({"model": 3}, "model", "invalid_value", "model must be text, got 3"),
        ({"messages": None}, "messages", "invalid_value", "messages must be a list of at least one message"),
        ({"messages": []}, "messages", "invalid_value", "messages must be a list of at least one message"),
        ({"messages": [USER, "hi"]}, "messages[1]", "invalid_value", "messages[1] must be an object"),
        (
            {"messages": [{"role": "robot", "content": "x"}]},
            "messages[0].role",
            "invalid_value",
            "messages[0].role must be one of system, developer, user, assistant, tool, got 'robot'",
        ),
        (
            {"messages": [{"role": ["user"], "content": "x"}]},
            "messages[0].role",
            "invalid_value",
            "messages[0].role must be one of system, developer, user, assistant, tool, got ['user']",
        ),
        (
            {"messages": [{"role": "user"}]},
            "messages[0].content",
            "invalid_value",
            "messages[0].content must be text or a list of text parts",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content",
            "invalid_value",
            "messages[0].content must hold text parts only",
        ),
        ({"stream": "yes"}, "stream", "invalid_value", "stream must be true or false, got 'yes'"),
        ({"stream": 1}, "stream", "invalid_value", "stream must be true or false, got 1"),
        (
            {"stream_options": {"include_usage": True}},
            "stream_options",
            "invalid_value",
            "stream_options is only allowed when stream is true",
        ),
        (
            {"stream": True, "stream_options": {"chunk": 3}},
            "stream_options",
            "invalid_value",
            "stream_options must be an object with include_usage",
        ),
        (
            {"stream": True, "stream_options": {"include_usage": 1}},
            "stream_options.include_usage",
            "invalid_value",
            "stream_options.include_usage must be true or false, got 1",
        ),
        ({"temperature": -0.1}, "temperature", "invalid_value", "temperature must be from 0 to 2, got -0.1"),
        ({"temperature": 2.1}, "temperature", "invalid_value", "temperature must be from 0 to 2, got 2.1"),
        ({"temperature": "hot"}, "temperature", "invalid_value", "temperature must be a number, got 'hot'"),
        ({"temperature": True}, "temperature", "invalid_value", "temperature must be a number, got True"),
        ({"top_p": 0}, "top_p", "invalid_value", "top_p must be above 0, got 0"),
        ({"top_p": 1.5}, "top_p", "invalid_value", "top_p must be from 0 to 1, got 1.5"),
        ({"seed": 1.5}, "seed", "invalid_value", "seed must be an integer, got 1.5"),
        ({"seed": False}, "seed", "invalid_value", "seed must be an integer, got False"),
        (
            {"seed": 2**63},
            "seed",
            "invalid_value",
            f"seed must be from {-(2**63)} to {2**63 - 1}, got {2**63}",
        ),
        ({"max_tokens": 0}, "max_tokens", "invalid_value", "max_tokens must be from 1 to 1000000000, got 0"),
        ({"max_tokens": 2.0}, "max_tokens", "invalid_value", "max_tokens must be an integer, got 2.0"),
        (
            {"max_completion_tokens": -1},
            "max_completion_tokens",
            "invalid_value",
            "max_completion_tokens must be from 1 to 1000000000, got -1",
        ),
        (
            {"max_completion_tokens": 5, "max_tokens": "many"},
            "max_tokens",
            "invalid_value",
            "max_tokens must be an integer, got 'many'",
        ),
        ({"stop": ""}, "stop", "invalid_value", "stop must be text or a list of texts, none of them empty"),
        ({"stop": ["a", 3]}, "stop", "invalid_value", "stop must be text or a list of texts, none of them empty"),
        ({"stop": ["a"] * 5}, "stop", "invalid_value", "stop must have at most 4 strings, got 5"),
        (
            {"stop": ["a", "x" * 501]},
            "stop",
            "invalid_value",
            "stop must have strings of at most 500 characters, got 501",
        ),
        ({"n": 0}, "n", "invalid_value", "n must be from 1 to 128, got 0"),
        ({"n": True}, "n", "invalid_value", "n must be an integer, got True"),
        ({"n": "1"}, "n", "invalid_value", "n must be an integer, got '1'"),
        ({"user": 5}, "user", "invalid_value", "user must be text, got 5"),
        ({"metadata": []}, "metadata", "invalid_value", "metadata must be an object whose values are text"),
        ({"metadata": {"a": 1}}, "metadata", "invalid_value", "metadata must be an object whose values are text"),
        (
            {"metadata": {"reference": "  "}},
            "metadata.reference",
            "invalid_value",
            "metadata.reference must not be empty",
        ),
        (
            {"metadata": {"reference": "x" * (MAX_REFERENCE_LENGTH + 1)}},
            "metadata.reference",
            "invalid_value",
            f"metadata.reference must have at most {MAX_REFERENCE_LENGTH} characters, got {MAX_REFERENCE_LENGTH + 1}",
        ),
        ({"tools": []}, "tools", "invalid_value", "tools must be a list of at least one object"),
        (
            {"tools": [{"type": "mcp", "server_url": "http://elsewhere"}]},
            "tools[0].type",
            "invalid_value",
            "tools[0].type must be one of function, custom, got 'mcp'",
        ),
        ({"tool_choice": 3}, "tool_choice", "invalid_value", "tool_choice must be text or an object, got 3"),
        (
            {"response_format": "json"},
            "response_format",
            "invalid_value",
            "response_format must be an object with a type",
        ),
        (
            {"top_logprobs": 3},
            "top_logprobs",
            "invalid_value",
            "top_logprobs is only allowed when logprobs is true",
        ),
        (
            {"logprobs": True, "top_logprobs": 21},
            "top_logprobs",
            "invalid_value",
            "top_logprobs must be from 0 to 20, got 21",
        ),
        (
            {"messages": [{"role": "assistant", "content": None, "tool_calls": []}]},
            "messages[0].tool_calls",
            "invalid_value",
            "messages[0].tool_calls must be a list of at least one object",
        ),
        ({"reference": "4"}, "reference", "unsupported_parameter", "parameter 'reference' is not supported"),
        ({"functions": []}, "functions", "unsupported_parameter", "parameter 'functions' is not supported"),
    ],
)
def test_a_refusal_names_parameter_value_and_bound(fields: dict[str, Any], param: str, code: str, message: str) -> None:
    error = refused(**fields)
    assert (error["param"], error["code"], error["message"]) == (param, code, message)


@pytest.mark.parametrize("reference", [".", "\u2024", " . "])
def test_a_reference_that_its_grader_takes_for_empty_is_refused(reference: str) -> None:
    """It could never be graded: admitted, it would hold up its batch of the ledger."""
    assert refused(metadata={"reference": reference})["param"] == "metadata.reference"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff\xfe", b"[" * 5000, b'{"user": "\\ud800"}', b'{"seed": 1e999}', b"NaN"]
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    error = refusal(body)
    assert (error["code"], error["param"]) == ("invalid_json", None)
    assert error["message"].startswith("the body is no JSON: ")


@pytest.mark.parametrize("body", [b"[]", b"3", b'"text"', b"null"])
def test_a_body_must_be_an_object(body: bytes) -> None:
    assert refusal(body) == {
        "message": "the body must be a JSON object",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_json",
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 9},
        {"messages": []},
        {"user": 3},
        {"tools": []},
        {"metadata": {"reference": SECRET, "other": 3}},
        {"metadata": {"reference": SECRET * MAX_REFERENCE_LENGTH}},
        {"metadata": {"reference": [SECRET]}},
        {"metadata": [SECRET]},
    ],
)
def test_no_message_repeats_the_reference(fields: dict[str, Any]) -> None:
    error = refused(**{"metadata": {"reference": SECRET}, **fields})
    assert SECRET not in error["message"]


@pytest.mark.parametrize("status", [400, 500])
def test_an_error_keeps_itself_on_its_way_through_a_context_manager(status: int) -> None:
    @contextmanager
    def something_held() -> Iterator[None]:
        yield

    with pytest.raises(ApiError) as caught, something_held():
        raise ApiError(status, "no", "code")
    assert caught.value.body()["error"]["type"] == ("invalid_request_error" if status == 400 else "server_error")


@pytest.mark.parametrize(
    ("fields", "cap"),
    [
        ({}, None),
        ({"reasoning_effort": "low"}, 1024),
        ({"reasoning_effort": "high"}, None),
        ({"thinking_token_budget": 7}, 7),
        ({"reasoning_effort": "low", "thinking_token_budget": 7}, 7),
        ({"reasoning_effort": "none", "thinking_token_budget": 7}, 1),
    ],
)
def test_the_smaller_of_effort_and_budget_is_the_clients_cap(fields: dict[str, Any], cap: int | None) -> None:
    assert parse(**fields).client_cap == cap


def test_an_operators_own_caps_of_efforts_hold() -> None:
    dialect = Dialect(effort_caps=read_effort_caps(["low=77", "medium = unlimited", "high=9000"]))
    caps = []
    for effort in ("minimal", "low", "medium", "high"):
        body = orjson.dumps({"model": "tiny", "messages": [USER], "reasoning_effort": effort})
        caps.append(parse_chat_request(body, dialect).client_cap)
    assert caps == [256, 77, None, 9000]


@pytest.mark.parametrize("item", ["low", "low=", "low=0", "low=many", "most=7", "low=9999999999999999", "low=1.5"])
def test_a_cap_of_an_effort_that_is_none_is_refused(item: str) -> None:
    with pytest.raises(ValueError, match=r"must be (one of|unlimited)"):
        read_effort_caps([item])


@pytest.mark.parametrize("fields", [{"reasoning_effort": "most"}, {"thinking_token_budget": 0}])
def test_an_unknown_effort_or_an_empty_budget_is_refused(fields: dict[str, Any]) -> None:
    assert refused(**fields)["param"] in fields


@pytest.mark.parametrize("fields", [{"user": "a\0"}, {"metadata": {"a\0": "b"}}, {"messages": [{"content": "\0"}]}])
def test_a_nul_character_is_refused(fields: dict[str, Any]) -> None:
    assert "NUL" in refused(**fields)["message"]


TOOL = {"type": "function", "function": {"name": "add"}}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("fields", "feature"),
    [
        ({"tools": [TOOL]}, RequestFeature.TOOLS),
        ({"tool_choice": "none"}, RequestFeature.TOOLS),
        ({"parallel_tool_calls": False}, RequestFeature.TOOLS),
        ({"response_format": {"type": "json_object"}}, RequestFeature.STRUCTURED_OUTPUT),
        ({"n": 2}, RequestFeature.SEVERAL_CHOICES),
        ({"logprobs": True, "top_logprobs": 3}, RequestFeature.LOGPROBS),
    ],
)
def test_what_asks_for_more_than_text_goes_on_as_it_is(fields: dict[str, Any], feature: RequestFeature) -> None:
    request = parse(**fields)
    assert request.features == {feature: next(iter(fields))}
    assert request.passthrough == fields


@pytest.mark.parametrize("fields", [{"n": 1}, {"response_format": {"type": "text"}}, {"logprobs": False}])
def test_what_asks_for_plain_text_is_plain(fields: dict[str, Any]) -> None:
    assert parse(**fields).passthrough is None


def test_messages_of_the_tool_protocol_keep_what_they_need() -> None:
    called = {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None}
    answered = {"role": "tool", "content": "4", "tool_call_id": "c1", "name": "add"}
    request = parse(messages=[USER, called, answered])
    assert request.messages == [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "4", "tool_call_id": "c1"},
    ]
    assert request.features == {
        RequestFeature.TOOLS: "messages[1].tool_calls",
        RequestFeature.INTERLEAVED_THINKING: "messages[2].role",
    }
    assert request.passthrough == {}


def test_unknown_parameters_are_ignored_where_the_operator_says_so() -> None:
    body = orjson.dumps({"model": "tiny", "messages": [USER], "top_k": 3, "novelty": 1})
    assert parse_chat_request(body, Dialect(unknown_parameters=UnknownParameters.IGNORE)) == parse()


def test_unknown_parameters_are_forwarded_where_the_operator_says_so() -> None:
    body = orjson.dumps({"model": "tiny", "messages": [USER], "top_k": 3, "novelty": [1], "nothing": None})
    request = parse_chat_request(body, Dialect(unknown_parameters=UnknownParameters.FORWARD))
    assert request.sampling == {"top_k": 3}
    assert request.features == {RequestFeature.OTHER_PARAMETERS: "novelty"}
    assert request.passthrough == {"top_k": 3, "novelty": [1]}


@pytest.mark.parametrize("name", ["vllm_xargs", "kv_transfer_params"])
def test_what_would_steer_the_server_itself_is_never_forwarded(name: str) -> None:
    body = orjson.dumps({"model": "tiny", "messages": [USER], name: {"remote_host": "elsewhere"}})
    with pytest.raises(ApiError) as caught:
        parse_chat_request(body, Dialect(unknown_parameters=UnknownParameters.FORWARD))
    assert (caught.value.status, caught.value.param) == (400, name)


def test_a_forwarded_sampling_parameter_alone_leaves_the_request_to_its_policy() -> None:
    body = orjson.dumps({"model": "tiny", "messages": [USER], "top_k": 3})
    request = parse_chat_request(body, Dialect(unknown_parameters=UnknownParameters.FORWARD))
    assert (request.features, request.passthrough) == ({}, None)


def test_a_body_that_is_nested_too_deep_to_be_written_is_refused() -> None:
    deep: Any = 1
    for _ in range(150):
        deep = [deep]
    assert "nested at most 100 levels" in refused(tools=[{"type": "function", "deep": deep}])["message"]
