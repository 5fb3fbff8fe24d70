"""Parsing and validating the body of POST /v1/chat/completions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from experiments.gateway.errors import ApiError, invalid
from experiments.gateway.thinking_budget import DEFAULT_EFFORT_CAPS, client_cap
from experiments.grading import MAX_REFERENCE_LENGTH, normalise_answer
from experiments.segment_names import SEGMENT

_ROLES = ("system", "developer", "user", "assistant", "tool")
_KNOWN = {
    "model",
    "messages",
    "stream",
    "stream_options",
    "temperature",
    "top_p",
    "seed",
    "max_tokens",
    "max_completion_tokens",
    "n",
    "reasoning_effort",
    "thinking_token_budget",
    "user",
    "metadata",
}


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A valid request. ``None`` means: not given.

    Attributes:
        reference: the reference answer; it never reaches a model.
        conversation: the conversation's id, from ``metadata.conversation_id``.
        segment: a segment of the report, from ``metadata.segment``.
        client_cap: the client's own limit on thinking tokens; the smaller of it and the policy's holds.
    """

    model: str
    messages: list[dict[str, str]]
    stream: bool
    include_usage: bool
    temperature: float | None
    top_p: float
    seed: int | None
    max_tokens: int | None
    user: str | None
    conversation: str | None
    reference: str | None
    segment: str = ""
    client_cap: int | None = None

    @property
    def prompt_characters(self) -> int:
        """Characters of all messages."""
        return sum(len(message["content"]) for message in self.messages)


def parse_chat_request(body: bytes) -> ChatRequest:
    """The request in a body.

    Raises:
        ApiError: 400 naming the parameter, its value and the bound.
    """
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"the body is no JSON: {error}", "invalid_json") from error
    if not isinstance(data, dict):
        raise ApiError(400, "the body must be a JSON object", "invalid_json")
    _refuse_nul(data)
    if unknown := sorted(set(data) - _KNOWN):
        raise invalid(unknown[0], f"parameter {unknown[0]!r} is not supported", "unsupported_parameter")
    if (n := data.get("n")) is not None and (isinstance(n, bool) or n != 1):
        raise invalid("n", f"n must be 1, got {n!r}", "unsupported_value")
    stream = _boolean(data, "stream")
    metadata = _metadata(data)
    return ChatRequest(
        model=_text(data, "model", required=True) or "",
        messages=_messages(data.get("messages")),
        stream=stream,
        include_usage=_include_usage(data, stream),
        temperature=_number(data, "temperature", 0, 2),
        top_p=_top_p(data),
        seed=_integer(data, "seed", -(2**63), 2**63 - 1),
        max_tokens=_max_tokens(data),
        user=_text(data, "user"),
        conversation=metadata.get("conversation_id"),
        reference=_reference(metadata),
        segment=_segment(metadata),
        client_cap=client_cap(_effort(data), _integer(data, "thinking_token_budget", 1, 10**9)),
    )


def _refuse_nul(data: dict[str, Any]) -> None:
    """PostgreSQL stores no NUL character. Walked without recursion: a body may be nested deeper than Python's stack."""
    waiting = list(data.items())
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, str) and "\x00" in value:
            raise invalid(name, f"{name} must hold no NUL character")
        if isinstance(value, dict):
            waiting.extend((name, inner) for pair in value.items() for inner in pair)
        elif isinstance(value, list):
            waiting.extend((name, inner) for inner in value)


def _effort(data: Mapping[str, Any]) -> str | None:
    effort = _text(data, "reasoning_effort")
    if effort is not None and effort not in DEFAULT_EFFORT_CAPS:
        known = ", ".join(DEFAULT_EFFORT_CAPS)
        raise invalid("reasoning_effort", f"reasoning_effort must be one of {known}, got {effort!r}")
    return effort


def _messages(value: object) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise invalid("messages", "messages must be a list of at least one message")
    return [_message(number, message) for number, message in enumerate(value)]


def _message(number: int, message: object) -> dict[str, str]:
    where = f"messages[{number}]"
    if not isinstance(message, dict):
        raise invalid(where, f"{where} must be an object")
    role, content = message.get("role"), message.get("content")
    if role not in _ROLES:
        raise invalid(f"{where}.role", f"{where}.role must be one of {', '.join(_ROLES)}, got {role!r}")
    if isinstance(content, list):
        content = "".join(_text_part(where, part) for part in content)
    if not isinstance(content, str):
        raise invalid(f"{where}.content", f"{where}.content must be text or a list of text parts")
    return {"role": role, "content": content}


def _text_part(where: str, part: object) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise invalid(f"{where}.content", f"{where}.content must hold text parts only")


def _metadata(data: Mapping[str, Any]) -> dict[str, str]:
    value = data.get("metadata")
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise invalid("metadata", "metadata must be an object whose values are text")
    return value


def _reference(metadata: Mapping[str, str]) -> str | None:
    reference = metadata.get("reference")
    if reference is None:
        return None
    # Judged as the grader judges it: a reference that it takes for empty could never be graded.
    if not normalise_answer(reference):
        raise invalid("metadata.reference", "metadata.reference must not be empty")
    if len(reference) > MAX_REFERENCE_LENGTH:
        raise invalid(
            "metadata.reference",
            f"metadata.reference must have at most {MAX_REFERENCE_LENGTH} characters, got {len(reference)}",
        )
    return reference


def _segment(metadata: Mapping[str, str]) -> str:
    segment = metadata.get("segment", "")
    if segment and not SEGMENT.fullmatch(segment):
        raise invalid(
            "metadata.segment", f"metadata.segment must be 1 to 40 letters, digits, . - and _, got {segment!r}"
        )
    return segment


def _include_usage(data: Mapping[str, Any], stream: bool) -> bool:
    options = data.get("stream_options")
    if options is None:
        return False
    if not stream:
        raise invalid("stream_options", "stream_options is only allowed when stream is true")
    if not isinstance(options, dict) or set(options) - {"include_usage"}:
        raise invalid("stream_options", "stream_options must be an object with include_usage")
    return _boolean(options, "include_usage", within="stream_options.")


def _max_tokens(data: Mapping[str, Any]) -> int | None:
    newer = _integer(data, "max_completion_tokens", 1, 10**9)
    older = _integer(data, "max_tokens", 1, 10**9)
    return older if newer is None else newer


def _top_p(data: Mapping[str, Any]) -> float:
    top_p = _number(data, "top_p", 0, 1)
    if top_p == 0:
        raise invalid("top_p", "top_p must be above 0, got 0")
    return 1.0 if top_p is None else top_p


def _boolean(data: Mapping[str, Any], name: str, within: str = "") -> bool:
    value = data.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise invalid(within + name, f"{within}{name} must be true or false, got {value!r}")
    return value


def _text(data: Mapping[str, Any], name: str, *, required: bool = False) -> str | None:
    value = data.get(name)
    if value is None and not required:
        return None
    if not isinstance(value, str) or (required and not value):
        raise invalid(name, f"{name} must be text, got {value!r}")
    return value


def _number(data: Mapping[str, Any], name: str, low: float, high: float) -> float | None:
    value = data.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise invalid(name, f"{name} must be a number, got {value!r}")
    if not low <= value <= high:
        raise invalid(name, f"{name} must be from {low:g} to {high:g}, got {value!r}")
    return float(value)


def _integer(data: Mapping[str, Any], name: str, low: int, high: int) -> int | None:
    value = data.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid(name, f"{name} must be an integer, got {value!r}")
    if not low <= value <= high:
        raise invalid(name, f"{name} must be from {low} to {high}, got {value}")
    return value
