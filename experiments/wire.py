"""What travels over Redis between gateway, engine host and ledger writer: key names and messages.

Messages are frozen values with a JSON form; unknown fields are refused, so that two versions of the
program that don't fit together say so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

import orjson

CONFIG_VERSION_KEY = "curtail:config:version"
CONFIG_CHANNEL = "curtail:config:changed"
CANCEL_CHANNEL = "curtail:cancel"
LEDGER_STREAM = "curtail:ledger"
LEDGER_DEAD_STREAM = "curtail:ledger:dead"
LEDGER_GROUP = "writer"
REQUEST_GROUP = "engine-hosts"
# Until when, in seconds since the epoch, what was admitted and lost has been given an outcome.
OVERDUE_KEY = "curtail:overdue"
REPLY_EXPIRY_SECONDS = 600
PAYLOAD = b"d"
KIND = b"k"
# What becomes of texts, by use case: kept, hashed (keyed), or dropped.
KEEP, HASH, DROP = "keep", "hash", "drop"


def request_stream(checkpoint_id: int) -> str:
    """Stream of the requests for one checkpoint (a checkpoint belongs to exactly one model)."""
    return f"curtail:requests:{checkpoint_id}"


def reply_stream(gateway_id: str) -> str:
    """Stream of everything that goes back to one gateway process."""
    return f"curtail:replies:{gateway_id}"


def shadow_stream(checkpoint_id: int) -> str:
    """Stream of the shadow runs for one checkpoint; served when nothing else is to be done."""
    return f"curtail:shadow:{checkpoint_id}"


def host_key(checkpoint_id: int) -> str:
    """Set, with a short expiry, for as long as an engine host serves this checkpoint."""
    return f"curtail:host:{checkpoint_id}"


def looked_key(experiment_id: int) -> str:
    """When an experiment was last looked at, in seconds since the epoch."""
    return f"curtail:looked:{experiment_id}"


def started_key(request_id: str) -> str:
    """Set once text of this request has been sent to its client: it can't be served a second time."""
    return f"curtail:started:{request_id}"


@dataclass(frozen=True, slots=True)
class _Message:
    def encode(self) -> bytes:
        """JSON form."""
        return orjson.dumps(self)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """The value of a JSON form. Raises ValueError or TypeError when it is none of this kind."""
        return cls(**orjson.loads(payload))


@dataclass(frozen=True, slots=True)
class ServeRequest(_Message):
    """One admitted request on its way to an engine host. It carries no reference answer.

    Times are seconds since the epoch; ``traceparent`` is the W3C trace context of the gateway's span, "" without.
    """

    id: str
    reply_to: str
    messages: list[dict[str, Any]]
    policy: dict[str, Any]
    stream: bool
    temperature: float
    top_p: float
    seed: int | None
    max_tokens: int | None
    admitted_at: float
    deadline_at: float
    traceparent: str = ""
    client_cap: int | None = None
    stop: list[str] = field(default_factory=list)
    passthrough: dict[str, Any] | None = None
    extra_sampling: dict[str, Any] = field(default_factory=dict)
    retention: str = KEEP


@dataclass(frozen=True, slots=True)
class AdmissionRecord(_Message):
    """That a request was admitted, and to what. Times are seconds since the epoch."""

    id: str
    use_case_id: int
    checkpoint_id: int
    phase_id: int | None
    variant_id: int | None
    unit_hash: str
    policy: dict[str, Any]
    policy_version: str
    reference: str | None
    admitted_at: float
    deadline_at: float
    prompt_characters: int = 0
    segment: str = ""
    audit_every: int = 0
    audited: bool = False
    shadowed: bool = False
    sampling: dict[str, Any] = field(default_factory=dict)
    retention: str = KEEP
    user_hash: str = ""
    conversation_hash: str = ""


@dataclass(frozen=True, slots=True)
class CompletionRecord(_Message):
    """How an admitted request ended. Tokens by kind; times are seconds (since the epoch for ``*_at``)."""

    id: str
    outcome: str
    completed_at: float
    finish_reason: str = ""
    exit_reason: str = ""
    exit_detail: str = ""
    decision_step: int | None = None
    applied_step: int | None = None
    prompt_tokens: int = 0
    thinking_tokens: int = 0
    answer_tokens: int = 0
    probe_tokens: int = 0
    overrun_tokens: int = 0
    prefill_tokens: int = 0
    probes: int = 0
    enforcement_failures: str = ""
    estimated_counts: str = ""
    messages: list[dict[str, Any]] | None = field(default=None)
    thinking: str = ""
    text: str = ""
    answer: str = ""
    error: str = ""
    queue_seconds: float | None = None
    latency_seconds: float | None = None
    deliveries: int = 1
    retention: str = KEEP


@dataclass(frozen=True, slots=True)
class ShadowRequest(_Message):
    """A recorded thought to be gone over again under another policy. Times are seconds since the epoch.

    Attributes:
        id: of the shadow run.
        thinking: text of the recorded think phase.
        ended: whether that thought ended by itself.
        start_by: a run that has not begun by then is dropped.
    """

    id: str
    messages: list[dict[str, str]]
    policy: dict[str, Any]
    thinking: str
    ended: bool
    start_by: float
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class ShadowRecord(_Message):
    """How a shadow run ended; an empty ``error`` means that it was answered."""

    id: str
    completed_at: float
    answer: str = ""
    exit_reason: str = ""
    decision_step: int | None = None
    thinking_tokens: int = 0
    answer_tokens: int = 0
    probe_tokens: int = 0
    overrun_tokens: int = 0
    forced_tokens: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class ReplyEvent:
    """One event for one client.

    Attributes:
        request_id: whose.
        kind: "thinking" or "answer" (``body`` is text), "choices" (``body`` is a server's own, of a request that is
            passed on as it is), "finished" (``body`` is a completion record's JSON form without the messages, with
            "choices" in the same case), "error" (``body`` has message, code and status).
        body: see ``kind``.
        number: the how many-th event of its request this is within one delivery; 0: not counted.
        delivery: how often the request had been handed to an engine host then.
    """

    request_id: str
    kind: str
    body: Any
    number: int = 0
    delivery: int = 1

    def packed(self) -> list[Any]:
        """The event as a JSON array."""
        return [self.request_id, self.kind, self.body, self.number, self.delivery]


def pack_replies(events: list[ReplyEvent]) -> bytes:
    """Several events as one stream entry's payload."""
    return orjson.dumps([event.packed() for event in events])


def unpack_replies(payload: bytes) -> list[ReplyEvent]:
    """The events of one stream entry."""
    return [ReplyEvent(*packed) for packed in orjson.loads(payload)]
