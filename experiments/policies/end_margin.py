"""`end_margin`: stop when the end of thinking is about as likely as the likeliest next token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from experiments.policies.base import (
    MAX_PROBES,
    MIN_THINKING_TOKENS,
    PROBE_EVERY_OR_STEP,
    Exit,
    ExitReason,
    Observation,
    Policy,
    ProbeSchedule,
    Signal,
)
from experiments.policies.parameters import Parameter, declare


@dataclass(frozen=True, slots=True, kw_only=True)
class EndMargin(Policy):
    """Exit at a step boundary where log p(likeliest token) - log p(end of thinking) is at most ``threshold``.

    The margin is read in the running request, so no probe is paid for.

    Source: ThinkBrake (arXiv:2510.00546), with patience added.
    """

    name: ClassVar[str] = "end_margin"
    title: ClassVar[str] = "End margin"
    summary: ClassVar[str] = "End thinking where the model itself is close to ending it; needs no probe."
    source: ClassVar[str] = "ThinkBrake (arXiv:2510.00546)"
    signals: ClassVar[frozenset[Signal]] = frozenset({Signal.END_MARGIN})

    threshold: float = declare(
        Parameter(
            float,
            "Largest margin between the likeliest token and the end of thinking at which thinking ends.",
            unit="nats",
            minimum=0.0,
            maximum=100.0,
        ),
        default=0.25,
    )
    patience: int = declare(
        Parameter(int, "At how many readings in a row.", unit="readings", minimum=1, maximum=MAX_PROBES), default=1
    )
    probe_every: int | None = declare(PROBE_EVERY_OR_STEP, default=None)
    min_thinking_tokens: int = declare(MIN_THINKING_TOKENS, default=0)

    def schedule(self) -> ProbeSchedule:
        return ProbeSchedule(every=self.probe_every, minimum=self.min_thinking_tokens)

    def initial_state(self) -> int:
        return 0

    def observe(self, state: Any, observation: Observation) -> tuple[int, Exit | None]:
        margin = observation.end_margin
        run = state + 1 if margin is not None and margin <= self.threshold else 0
        if margin is None or run < self.patience:
            return run, None
        detail = f"margin {margin:.4f} <= {self.threshold:g} at {run} readings in a row (patience {self.patience})"
        return run, Exit(ExitReason.END_NEAR, observation.thinking_tokens, detail)
