"""What every stopping policy is: a frozen value with a pure transition function."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from experiments.policies.parameters import Parameter, check_all, declare


class Signal(StrEnum):
    """What an engine has to measure at a probe point. No engine pays for a signal that nobody reads."""

    TRIAL_ANSWER = "trial_answer"
    TRIAL_CONFIDENCE = "trial_confidence"
    END_ENTROPY = "end_entropy"  # of the next token, were thinking closed here
    END_MARGIN = "end_margin"  # how far the end of thinking is from being the next token

    @property
    def needs_branch(self) -> bool:
        """Whether it is measured on a branch behind the end of thinking (else in the running request)."""
        return self is not Signal.END_MARGIN


class RequestFeature(StrEnum):
    """What a request may ask for besides plain text; a policy declares with which of them it may end thinking."""

    TOOLS = "tools"
    STRUCTURED_OUTPUT = "structured_output"
    SEVERAL_CHOICES = "several_choices"  # n > 1
    LOGPROBS = "logprobs"
    OTHER_PARAMETERS = "other_parameters"  # that the gateway does not know and its operator lets through
    INTERLEAVED_THINKING = "interleaved_thinking"  # thinks again between its tool calls


class ExitReason(StrEnum):
    """Why thinking ended."""

    END_OF_THINKING = "end_of_thinking"  # the model closed its thinking by itself
    CONVERGED = "converged"
    CONFIDENT = "confident"
    END_NEAR = "end_near"  # the end of thinking was about as likely as the likeliest token
    ENTROPY_SETTLED = "entropy_settled"
    PLATEAU = "plateau"  # confidence stopped rising
    RUN_JUMP = "run_jump"  # the run of equal trial answers outgrew the earlier ones
    TOKEN_BUDGET = "token_budget"
    HARD_CAP = "hard_cap"  # max_thinking_tokens of an adaptive policy
    CLIENT_CAP = "client_cap"  # a cap that came with the request
    LENGTH = "length"  # the request's own limit ended decoding while thinking


@dataclass(frozen=True, slots=True)
class TrialAnswer:
    """The answer a model gives when its thinking is closed here, decoded on a branch.

    Attributes:
        text: the answer's text as the model profile extracts it (not normalised).
        token_logprobs: natural log-probability of each answer token, end-of-answer token left out.
        complete: whether the model ended the answer itself (False: cut at the trial's token limit).
    """

    text: str
    token_logprobs: tuple[float, ...] = ()
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Observation:
    """What a policy sees at one probe point.

    Attributes:
        thinking_tokens: tokens decoded inside the think phase so far.
        trial: the trial answer at this point, if the policy declared a signal that needs one.
        end_entropy: entropy in nats of the token after the end of thinking (and the trial suffix), were it put here;
            None where the policy did not ask or the engine could not measure it.
        end_margin: log p(likeliest token) - log p(end of thinking) in nats, of the next token; None as above.
    """

    thinking_tokens: int
    trial: TrialAnswer | None = None
    end_entropy: float | None = None
    end_margin: float | None = None


@dataclass(frozen=True, slots=True)
class Exit:
    """The decision to end thinking.

    Attributes:
        reason: why.
        decision_step: thinking tokens at the probe point where it was decided.
        detail: the reason with its numbers, for people.
    """

    reason: ExitReason
    decision_step: int
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ProbeSchedule:
    """Where a policy wants to look.

    Attributes:
        every: at the first step boundary at or after each multiple of so many thinking tokens;
            None means at every step boundary.
        minimum: no probe before so many thinking tokens.
    """

    every: int | None
    minimum: int = 0

    def first(self) -> int:
        """Thinking tokens from which the first probe point may come."""
        return max(self.every or 1, self.minimum)

    def after(self, thinking_tokens: int) -> int:
        """Thinking tokens from which the next probe point may come, after one at ``thinking_tokens``."""
        step = self.every or 1
        return (thinking_tokens // step + 1) * step


MAX_TOKENS = 1_000_000
MAX_WRAP_UP_LENGTH = 500
MAX_PROBES = 1000
PROBE_EVERY = Parameter(
    int,
    "Probe at the first step boundary after each so many thinking tokens.",
    unit="tokens",
    minimum=1,
    maximum=MAX_TOKENS,
)
MIN_THINKING_TOKENS = Parameter(
    int,
    "No probe before so many thinking tokens.",
    unit="tokens",
    minimum=0,
    maximum=MAX_TOKENS,
)
PROBE_EVERY_OR_STEP = Parameter(
    int,
    "Probe at the first step boundary after each so many thinking tokens; empty: at every step boundary.",
    unit="tokens",
    minimum=1,
    maximum=MAX_TOKENS,
    optional=True,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy(ABC):
    """A stopping policy: parameters in, decisions out, no side effects.

    A subclass names itself, declares the signals it reads and the features of requests that it is ``eligible`` for,
    says where it wants to look (:meth:`schedule`) and decides (:meth:`observe`). State is a value of the policy's own
    choice that the caller threads through; the policy itself never changes.

    Raises:
        ValueError: a parameter is outside its bounds; the message names it, the value and the bound.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    signals: ClassVar[frozenset[Signal]] = frozenset()
    eligible: ClassVar[frozenset[RequestFeature]] = frozenset(
        {
            RequestFeature.TOOLS,
            RequestFeature.STRUCTURED_OUTPUT,
            RequestFeature.SEVERAL_CHOICES,
            RequestFeature.LOGPROBS,
        }
    )
    cap_reason: ClassVar[ExitReason] = ExitReason.HARD_CAP

    max_thinking_tokens: int | None = declare(
        Parameter(
            int,
            "Hard cap: thinking ends here whatever else the policy says.",
            unit="tokens",
            minimum=1,
            maximum=MAX_TOKENS,
            optional=True,
        ),
        default=None,
    )
    wrap_up: str = declare(
        Parameter(
            str,
            "Written at the end of the thinking before it is closed early, as if by the model; empty: nothing.",
            maximum=MAX_WRAP_UP_LENGTH,
        ),
        default="",
    )

    def __post_init__(self) -> None:
        check_all(self)

    def schedule(self) -> ProbeSchedule | None:
        """Where to probe, or None for a policy that needs no probe."""
        return None

    def initial_state(self) -> Any:
        """State before the first observation."""
        return None

    @property
    def needs_branch(self) -> bool:
        """Whether its signals are measured on branches."""
        return any(signal.needs_branch for signal in self.signals)

    @abstractmethod
    def observe(self, state: Any, observation: Observation) -> tuple[Any, Exit | None]:
        """The next state, and an exit if thinking is to end at this probe point."""
