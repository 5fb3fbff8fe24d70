"""Where OpenAI's protocol leaves servers a choice: what this installation chose. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from experiments.gateway.thinking_budget import DEFAULT_EFFORT_CAPS


class ReasoningField(StrEnum):
    """Under which name clients get the thinking."""

    REASONING = "reasoning"
    REASONING_CONTENT = "reasoning_content"
    BOTH = "both"

    @property
    def names(self) -> tuple[str, ...]:
        """The names in messages and deltas."""
        return ("reasoning", "reasoning_content") if self is ReasoningField.BOTH else (self.value,)


class UnknownParameters(StrEnum):
    """What becomes of parameters that the gateway does not know."""

    REFUSE = "refuse"
    IGNORE = "ignore"
    FORWARD = "forward"  # to servers that get the request; other engines refuse them


@dataclass(frozen=True, slots=True)
class Dialect:
    """The choices; settings of the same names make them.

    Attributes:
        effort_caps: the most thinking tokens that each ``reasoning_effort`` stands for; None: no limit.
    """

    reasoning_field: ReasoningField = ReasoningField.REASONING
    unknown_parameters: UnknownParameters = UnknownParameters.REFUSE
    effort_caps: Mapping[str, int | None] = field(default_factory=lambda: DEFAULT_EFFORT_CAPS)


DEFAULT = Dialect()
