"""The protocol that every engine speaks, and the values that go in and come out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from experiments.policies import Exit, Observation, Policy


class EngineError(Exception):
    """The engine could not serve a request; the message is fit for the client.

    Attributes:
        code: a short, stable name of what went wrong.
        invalid_request: whether the request itself is at fault (then repeating it won't help).
    """

    def __init__(self, message: str, *, code: str = "engine_error", invalid_request: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.invalid_request = invalid_request


@dataclass(frozen=True, slots=True)
class ThinkingProfile:
    """How a model thinks (the part of a model profile that an engine needs).

    Attributes:
        think_open: text that opens the think phase.
        think_close: text that ends it.
        template_opens_thinking: whether the chat template already ends with ``think_open``.
        step_boundary: text that ends a step; empty: every token ends one.
        trial_suffix: text after ``think_close`` that opens a trial answer.
        max_trial_tokens: limit on the decoded tokens of one trial answer.
        answer_pattern: regular expression of the answer, see ``experiments.grading.extract_answer``.
        max_context_tokens: limit on prompt plus decoded tokens.
    """

    think_open: str = "<think>"
    think_close: str = "</think>"
    template_opens_thinking: bool = True
    step_boundary: str = ""
    trial_suffix: str = ""
    max_trial_tokens: int = 32
    answer_pattern: str = ""
    max_context_tokens: int = 4096


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. Trial answers are always greedy.

    Attributes:
        temperature: 0 is greedy.
        top_p: nucleus mass in (0, 1].
        seed: makes sampling of this request repeatable; None draws one.
        max_tokens: limit on thinking + overrun + answer tokens; None: up to the context limit.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One request to an engine.

    Attributes:
        id: unique among the requests in flight.
        messages: chat messages, each with ``role`` and ``content``; those of the tool protocol have more.
        policy: the stopping policy to apply.
        sampling: how tokens are drawn.
        stream: whether text is wanted while it is decoded.
        forced_thinking: text of a think phase recorded before. It is fed, not decoded, under the policy: a probe or an
            exit falls on the same step as when it was decoded. Then decoding goes on from there.
        forced_end: whether thinking ended there by itself, so that the answer follows.
        client_cap: the client's own limit on thinking tokens, or None; the smaller of it and the policy's holds.
        stop: strings that end decoding where the answer comes to one of them; it is no part of the text.
        passthrough: parameters for a server that gets the request as it is (tools, n, ...), see :class:`PassesOn`;
            None: the request is decoded here.
        extra_sampling: further parameters of sampling, for servers that know them; trial answers go without.
    """

    id: str
    messages: Sequence[dict[str, Any]]
    policy: Policy
    sampling: Sampling = field(default_factory=Sampling)
    stream: bool = False
    forced_thinking: str = ""
    forced_end: bool = False
    client_cap: int | None = None
    stop: Sequence[str] = ()
    passthrough: Mapping[str, Any] | None = None
    extra_sampling: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_record(self) -> bool:
        """Whether it begins with a recorded thought."""
        return bool(self.forced_thinking) or self.forced_end


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Decoded tokens by kind, and the prompt's.

    Attributes:
        prompt: tokens of the prompt (not decoded).
        thinking: decoded inside the think phase up to the decision, a natural end token included.
        answer: decoded after it, the end-of-sequence token included.
        probe: decoded by trial answers, their end tokens included.
        overrun: past the decision before the stop took effect; forced end tokens count here.
        forced: thinking that was fed from a record (not decoded).
        prefill: tokens that probes and continuations had to compute anew because no cache held them (not decoded).
        estimated: names of the counts above that are estimates, sorted; a remote server may not tell them. Of an
            unknown prefill it is the upper bound: as if nothing had been cached.
    """

    prompt: int = 0
    thinking: int = 0
    answer: int = 0
    probe: int = 0
    overrun: int = 0
    forced: int = 0
    prefill: int = 0
    estimated: tuple[str, ...] = ()

    @property
    def decoded(self) -> int:
        """The headline token metric: the sum of the four kinds of decoded tokens."""
        return self.thinking + self.answer + self.probe + self.overrun


class EnforcementFailure(StrEnum):
    """How an exit that was decided was not put into effect as it should have been."""

    EXIT_MISSED = "exit_missed"  # thinking went on
    END_FORCED_TWICE = "end_forced_twice"  # the end of thinking stands in the answer again
    EMPTY_ANSWER = "empty_answer"  # nothing followed the exit
    CUT_CHARACTER = "cut_character"  # thinking was closed between the bytes of one character


class FinishReason(StrEnum):
    """How decoding ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    # Only of requests that are passed on as they are:
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """How one request went.

    Attributes:
        finish_reason: how decoding ended.
        thinking: text of the think phase.
        text: text after it.
        answer: the answer extracted from ``text``.
        exit: the decision that ended thinking; None if thinking never ended.
        applied_step: thinking tokens when the exit took effect (those past the decision included); None as above.
        tokens: decoded tokens by kind.
        probes: branches taken.
        queued_seconds: from ``generate`` to the first forward pass.
        observations: what the policy saw, in order.
        failures: what was found wrong when the decided exit was held against what was decoded.
        choices: the server's own choices, of a request that was passed on as it is and does not stream. The fields
            above tell of the first one; the tokens are those of all.
    """

    finish_reason: FinishReason
    thinking: str
    text: str
    answer: str
    exit: Exit | None
    applied_step: int | None
    tokens: TokenCounts
    probes: int
    queued_seconds: float
    observations: tuple[Observation, ...] = ()
    failures: tuple[EnforcementFailure, ...] = ()
    choices: tuple[Mapping[str, Any], ...] = ()


class DeltaKind(StrEnum):
    """Which part of the completion a piece of text belongs to."""

    THINKING = "thinking"
    ANSWER = "answer"
    CHOICES = "choices"  # the server's own, of a request that is passed on as it is


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of text, in order. Never retracted.

    Attributes:
        choices: only of the kind of that name, which has no text.
    """

    kind: DeltaKind
    text: str
    choices: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of a request."""

    result: GenerationResult


class Engine(Protocol):
    """Decodes requests; many at once.

    ``generate`` yields :class:`Delta` events if the request streams, then one :class:`Finished`.
    """

    @property
    def max_concurrency(self) -> int:
        """Requests decoded at once; more wait inside the engine."""
        ...

    @property
    def alive(self) -> bool:
        """Whether it can go on serving; one that cannot is closed and started anew."""
        ...

    async def start(self) -> None:
        """Load the weights. Raises EngineError when they cannot be served."""
        ...

    def generate(self, request: GenerationRequest) -> AsyncIterator[Delta | Finished]:
        """Decode one request. Closing the iterator stops its decoding.

        Raises:
            EngineError: from the iterator, for this request alone.
        """
        ...

    def cancel(self, request_id: str) -> None:
        """Stop decoding a request within one step; its iterator ends with what was decoded. Unknown ids are ignored."""
        ...

    async def close(self) -> None:
        """Stop everything and free the device. Requests in flight end with an EngineError."""
        ...


@runtime_checkable
class PassesOn(Protocol):
    """An engine that can pass requests on to a server as they are."""

    def passing_refusal(self, policy: Policy) -> str | None:
        """Why a policy cannot be applied to such requests; None: it can."""
        ...
