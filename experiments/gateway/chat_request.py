"""Parsing and validating the body of POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from experiments.gateway import special as special_parameters
from experiments.gateway.dialect import DEFAULT, Dialect
from experiments.gateway.errors import invalid
from experiments.gateway.fields import boolean, integer, json_object, number, shown, text
from experiments.gateway.messages import read_messages
from experiments.gateway.special import Special, read_special, read_unknown
from experiments.gateway.thinking_budget import client_cap
from experiments.grading import MAX_REFERENCE_LENGTH, normalise_answer
from experiments.policies import RequestFeature
from experiments.segment_names import SEGMENT

MAX_STOPS = 4
MAX_STOP_LENGTH = 500
# Parameters that chats and plain completions share.
PLAIN = frozenset(
    {
        "model",
        "stream",
        "stream_options",
        "temperature",
        "top_p",
        "seed",
        "max_tokens",
        "max_completion_tokens",
        "stop",
        "reasoning_effort",
        "thinking_token_budget",
        "user",
        "metadata",
    }
)
_KNOWN = special_parameters.NAMES | PLAIN | {"messages"}


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A valid request. ``None`` means: not given.

    Attributes:
        reference: the reference answer; it never reaches a model.
        conversation: the conversation's id, from ``metadata.conversation_id``.
        segment: a segment of the report, from ``metadata.segment``.
        use_case: from ``metadata.use_case``.
        context: as sent in ``metadata.context``.
        client_cap: the client's own limit on thinking tokens; the smaller of it and the policy's holds.
        stop: strings that end the answer.
        features: what it asks for beyond plain text, each with the parameter that does.
        passed: parameters that go on to a server as they are.
        sampling: forwarded parameters of sampling.
    """

    model: str
    messages: list[dict[str, Any]]
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
    use_case: str = ""
    context: str = ""
    client_cap: int | None = None
    stop: tuple[str, ...] = ()
    features: Mapping[RequestFeature, str] = field(default_factory=dict)
    passed: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)

    @property
    def prompt_characters(self) -> int:
        """Characters of all messages."""
        return sum(len(message["content"] or "") for message in self.messages)

    @property
    def passthrough(self) -> dict[str, Any] | None:
        """Parameters for a server that gets the request as it is; None: it asks for plain text."""
        return {**self.passed, **self.sampling} if self.features else None


def parse_chat_request(body: bytes, dialect: Dialect = DEFAULT) -> ChatRequest:
    """The request in a body.

    Raises:
        ApiError: 400 naming the parameter, its value and the bound.
    """
    data = json_object(body)
    special = read_special(data)
    read_unknown(data, _KNOWN, dialect.unknown_parameters, special)
    return read_request(data, read_messages(data.get("messages"), special), special, dialect)


def read_request(
    data: Mapping[str, Any], messages: list[dict[str, Any]], special: Special, dialect: Dialect
) -> ChatRequest:
    """The request of these messages, with the parameters that chats and plain completions share. Raises ApiError."""
    stream = boolean(data, "stream")
    metadata = _metadata(data)
    return ChatRequest(
        model=text(data, "model", required=True) or "",
        messages=messages,
        stream=stream,
        include_usage=_include_usage(data, stream),
        temperature=number(data, "temperature", 0, 2),
        top_p=_top_p(data),
        seed=integer(data, "seed", -(2**63), 2**63 - 1),
        max_tokens=_max_tokens(data),
        user=text(data, "user"),
        conversation=metadata.get("conversation_id"),
        reference=_reference(metadata),
        segment=_segment(metadata),
        use_case=metadata.get("use_case", ""),
        context=metadata.get("context", ""),
        client_cap=_client_cap(data, dialect.effort_caps),
        stop=_stop(data.get("stop")),
        features=special.features,
        passed=special.passed,
        sampling=special.sampling,
    )


def _client_cap(data: Mapping[str, Any], effort_caps: Mapping[str, int | None]) -> int | None:
    effort = text(data, "reasoning_effort")
    if effort is not None and effort not in effort_caps:
        known = ", ".join(effort_caps)
        raise invalid("reasoning_effort", f"reasoning_effort must be one of {known}, got {shown(effort)}")
    return client_cap(effort, integer(data, "thinking_token_budget", 1, 10**9), effort_caps)


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
            "metadata.segment", f"metadata.segment must be 1 to 40 letters, digits, . - and _, got {shown(segment)}"
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
    return boolean(options, "include_usage", within="stream_options.")


def _max_tokens(data: Mapping[str, Any]) -> int | None:
    newer = integer(data, "max_completion_tokens", 1, 10**9)
    older = integer(data, "max_tokens", 1, 10**9)
    return older if newer is None else newer


def _stop(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    strings = [value] if isinstance(value, str) else value
    if not isinstance(strings, list) or not all(isinstance(text, str) and text for text in strings):
        raise invalid("stop", "stop must be text or a list of texts, none of them empty")
    if len(strings) > MAX_STOPS:
        raise invalid("stop", f"stop must have at most {MAX_STOPS} strings, got {len(strings)}")
    if (length := max(map(len, strings), default=0)) > MAX_STOP_LENGTH:
        raise invalid("stop", f"stop must have strings of at most {MAX_STOP_LENGTH} characters, got {length}")
    return tuple(strings)


def _top_p(data: Mapping[str, Any]) -> float:
    top_p = number(data, "top_p", 0, 1)
    if top_p == 0:
        raise invalid("top_p", "top_p must be above 0, got 0")
    return 1.0 if top_p is None else top_p
