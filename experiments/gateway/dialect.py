"""Where OpenAI's protocol leaves servers a choice: what this installation chose. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


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
    """The choices; settings of the same names make them."""

    reasoning_field: ReasoningField = ReasoningField.REASONING
    unknown_parameters: UnknownParameters = UnknownParameters.REFUSE


DEFAULT = Dialect()
