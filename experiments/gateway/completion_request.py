"""Parsing and validating the body of POST /v1/completions.

The prompt becomes the one message of a user: a policy is about a model that thinks behind its chat template, and
without the template it would not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.gateway.chat_request import PLAIN, ChatRequest, read_request
from experiments.gateway.dialect import DEFAULT, Dialect
from experiments.gateway.errors import invalid
from experiments.gateway.fields import boolean, integer, json_object, shown, text
from experiments.gateway.special import Special, read_unknown

_OWN = frozenset({"prompt", "echo", "suffix", "best_of", "n", "logprobs"})


def parse_completion_request(body: bytes, dialect: Dialect = DEFAULT) -> ChatRequest:
    """The request in a body.

    Raises:
        ApiError: 400 naming the parameter, its value and the bound.
    """
    data = json_object(body)
    _refuse_unserved(data)
    special = Special()
    read_unknown(data, PLAIN | _OWN, dialect.unknown_parameters, special)
    for name in special.features.values():
        # A chat that a server gets as it is would not come back as a plain completion.
        raise invalid(name, f"{shown(name)} is only forwarded with chats", "unsupported_parameter")
    return read_request(data, [{"role": "user", "content": _prompt(data.get("prompt"))}], special, dialect)


def _refuse_unserved(data: Mapping[str, Any]) -> None:
    if boolean(data, "echo"):
        raise invalid("echo", "echo is not served: the prompt goes through the chat template", "unsupported_parameter")
    if text(data, "suffix") is not None:
        raise invalid("suffix", "suffix is not served: a chat has nothing behind its answer", "unsupported_parameter")
    for name in ("n", "best_of"):
        if (value := integer(data, name, 1, 128)) is not None and value != 1:
            raise invalid(name, f"{name} must be 1 for plain completions, got {value}", "unsupported_value")
    if data.get("logprobs") is not None:
        raise invalid("logprobs", "logprobs is not served for plain completions", "unsupported_parameter")


def _prompt(value: object) -> str:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str):
        raise invalid("prompt", f"prompt must be text or a list of one text, got {shown(value)}")
    return value
