"""The body of POST /v1/completions."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from experiments.gateway.chat_request import ChatRequest, parse_chat_request
from experiments.gateway.completion_request import parse_completion_request
from experiments.gateway.dialect import Dialect, UnknownParameters
from experiments.gateway.errors import ApiError


def parse(dialect: Dialect | None = None, **fields: Any) -> ChatRequest:
    body = orjson.dumps({"model": "tiny", "prompt": "2+2", **fields})
    return parse_completion_request(body, dialect or Dialect())


@pytest.mark.parametrize("prompt", ["2+2", ["2+2"]])
def test_the_prompt_is_a_chat_of_one_message(prompt: object) -> None:
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "2+2"}], "max_tokens": 5, "stop": "x"}
    assert parse(prompt=prompt, max_tokens=5, stop="x") == parse_chat_request(orjson.dumps(chat))


@pytest.mark.parametrize("fields", [{"n": 1}, {"best_of": 1}, {"echo": False}, {"suffix": None}, {"logprobs": None}])
def test_what_changes_nothing_is_taken(fields: dict[str, Any]) -> None:
    assert parse(**fields) == parse()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": None}, "prompt must be text or a list of one text, got None"),
        ({"prompt": ["a", "b"]}, "prompt must be text or a list of one text, got ['a', 'b']"),
        ({"prompt": [1, 2]}, "prompt must be text or a list of one text, got [1, 2]"),
        ({"echo": True}, "echo is not served: the prompt goes through the chat template"),
        ({"suffix": "x"}, "suffix is not served: a chat has nothing behind its answer"),
        ({"best_of": 2}, "best_of must be 1 for plain completions, got 2"),
        ({"n": 2}, "n must be 1 for plain completions, got 2"),
        ({"logprobs": 1}, "logprobs is not served for plain completions"),
        ({"tools": []}, "parameter 'tools' is not supported"),
        ({"messages": []}, "parameter 'messages' is not supported"),
    ],
)
def test_a_refusal_names_the_parameter(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse(**fields)
    assert (caught.value.status, caught.value.param) == (400, next(iter(fields)))
    assert caught.value.message == message


def test_only_sampling_is_forwarded() -> None:
    forward = Dialect(unknown_parameters=UnknownParameters.FORWARD)
    assert parse(forward, top_k=3).sampling == {"top_k": 3}
    with pytest.raises(ApiError, match="only forwarded with chats"):
        parse(forward, novelty=3)
