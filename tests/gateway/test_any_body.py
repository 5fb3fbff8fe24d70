"""Whatever a body holds, it gives a request or a refusal in OpenAI's form, never another failure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.gateway.admission import admission_record, decide, serve_request
from experiments.gateway.chat_request import ChatRequest, parse_chat_request
from experiments.gateway.completion_request import parse_completion_request
from experiments.gateway.dialect import Dialect, UnknownParameters
from experiments.gateway.errors import ApiError
from experiments.routing import Arm, Route

ROUTE = Route(1, "s", "m", 0.0, 60.0, Arm(1, {"name": "full", "parameters": {}}, "v1"), engine="openai")
Parse = Callable[[bytes, Dialect], ChatRequest]
PARSERS = (parse_chat_request, parse_completion_request)

plain = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=8)
anything = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
call = st.fixed_dictionaries({"type": st.just("function")}) | anything
message = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "assistant", "tool"]) | anything,
        "content": st.text() | anything,
        "tool_calls": st.lists(call, max_size=2) | anything,
        "tool_call_id": anything,
    },
)
LIKELY = {
    "model": st.just("m"),
    "stream": st.booleans(),
    "stop": st.text(max_size=3) | st.lists(st.text(max_size=3), max_size=5),
    "n": st.integers(0, 3),
    "logprobs": st.booleans(),
    "top_logprobs": st.integers(-1, 22),
    "tools": st.lists(call, max_size=2),
    "response_format": st.fixed_dictionaries({"type": st.sampled_from(["text", "json_object"])}),
    "reasoning_effort": st.sampled_from(["low", "high", "most"]),
    "messages": st.lists(message, max_size=2),
    "prompt": st.text() | st.lists(st.text(), max_size=2),
    "metadata": st.dictionaries(st.sampled_from(["reference", "conversation_id", "segment"]), st.text(max_size=4)),
}
OTHERS = (
    "stream_options", "temperature", "top_p", "seed", "max_tokens", "max_completion_tokens", "tool_choice", "user",
    "thinking_token_budget", "parallel_tool_calls", "echo", "suffix", "best_of", "top_k", "vllm_xargs", "novelty",
)  # fmt: skip
bodies = st.fixed_dictionaries(
    {},
    optional={name: likely | anything for name, likely in LIKELY.items()} | dict.fromkeys(OTHERS, anything),
)
dialects = st.builds(Dialect, unknown_parameters=st.sampled_from(UnknownParameters))


def parsed(parse: Parse, body: bytes, dialect: Dialect) -> ChatRequest | None:
    """The request, which can be served and written; None: it was refused."""
    refused: ApiError
    try:
        return parse(body, dialect)
    except ApiError as error:
        refused = error
    assert refused.status == 400
    assert len(orjson.dumps(refused.body())) < 4096
    return None


def written(request: ChatRequest) -> None:
    """What goes on of a request can be written."""
    admitted = decide(ROUTE, dataclasses.replace(request, model="m"))
    serve_request(admitted, request, "").encode()
    admission_record(admitted, request).encode()


@pytest.mark.parametrize("parse", PARSERS)
@settings(max_examples=300, deadline=None)
@given(body=bodies | anything, dialect=dialects)
def test_any_json_is_parsed_or_refused(parse: Parse, body: object, dialect: Dialect) -> None:
    request = parsed(parse, orjson.dumps(body), dialect)
    if request is not None:
        written(request)


@pytest.mark.parametrize("parse", PARSERS)
@settings(max_examples=100, deadline=None)
@given(name=st.sampled_from([*LIKELY, *OTHERS]), value=anything, dialect=dialects)
def test_any_value_of_one_field_is_parsed_or_refused(parse: Parse, name: str, value: object, dialect: Dialect) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "prompt": "x", name: value}
    body.pop("prompt" if parse is parse_chat_request else "messages")
    request = parsed(parse, orjson.dumps(body), dialect)
    if request is not None:
        written(request)


@pytest.mark.parametrize("parse", PARSERS)
@settings(max_examples=100, deadline=None)
@given(body=st.binary(max_size=60) | st.text(max_size=60).map(str.encode), dialect=dialects)
def test_any_bytes_are_parsed_or_refused(parse: Parse, body: bytes, dialect: Dialect) -> None:
    parsed(parse, body, dialect)


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize("rule", UnknownParameters)
@pytest.mark.parametrize(
    "value",
    [
        b'"\\ud800"',
        b'"\\udc00\\ud800"',
        b'"\xed\xa0\x80"',
        b'"\\u0000"',
        b"9" * 30,
        b"-" + b"9" * 30,
        b"9" * 5000,
        b"1e400",
        b"18446744073709551615",
        b"-9223372036854775809",
        b"NaN",
        b"[" * 900 + b"]" * 900,
        b'{"a":' * 900 + b"1" + b"}" * 900,
        b"[" * 100_000,
        b'"' + b"x" * 100_000 + b'"',
    ],
    ids=lambda value: value[:12].decode("latin-1") if isinstance(value, bytes) else None,
)
@pytest.mark.parametrize("name", ["seed", "user", "tools", "messages", "prompt", "metadata", "novelty"])
def test_values_that_no_json_writer_gives_back_are_dealt_with(
    parse: Parse, rule: UnknownParameters, value: bytes, name: str
) -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"x"}],"' + name.encode() + b'":' + value + b"}"
    request = parsed(parse, body, Dialect(unknown_parameters=rule))
    if request is not None:
        written(request)
