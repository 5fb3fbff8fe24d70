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


class ExitReason(StrEnum):
    """Why thinking ended."""

    END_OF_THINKING = "end_of_thinking"  # the model closed its thinking by itself
    CONVERGED = "converged"
    CONFIDENT = "confident"
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
    """

    thinking_tokens: int
    trial: TrialAnswer | None = None


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy(ABC):
    """A stopping policy: parameters in, decisions out, no side effects.

    A subclass names itself, declares the signals it reads, says where it wants to look
    (:meth:`schedule`) and decides (:meth:`observe`). State is a value of the policy's own
    choice that the caller threads through; the policy itself never changes.

    Raises:
        ValueError: a parameter is outside its bounds; the message names it, the value and the bound.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    signals: ClassVar[frozenset[Signal]] = frozenset()
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

    def __post_init__(self) -> None:
        check_all(self)

    def schedule(self) -> ProbeSchedule | None:
        """Where to probe, or None for a policy that needs no probe."""
        return None

    def initial_state(self) -> Any:
        """State before the first observation."""
        return None

    @abstractmethod
    def observe(self, state: Any, observation: Observation) -> tuple[Any, Exit | None]:
        """The next state, and an exit if thinking is to end at this probe point."""
