"""`full`: think until the model closes its thinking by itself. The control."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from experiments.policies.base import Exit, Observation, Policy, RequestFeature


@dataclass(frozen=True, slots=True, kw_only=True)
class Full(Policy):
    """No early exit (a hard cap may be set)."""

    name: ClassVar[str] = "full"
    title: ClassVar[str] = "Full"
    summary: ClassVar[str] = "Think until the model ends its thinking by itself."
    source: ClassVar[str] = "the control"
    # It judges nothing, so it may run everywhere.
    eligible: ClassVar[frozenset[RequestFeature]] = frozenset(RequestFeature)

    def observe(self, state: Any, observation: Observation) -> tuple[Any, Exit | None]:
        return state, None
