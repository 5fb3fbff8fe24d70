"""`confidence`: stop when the model is sure of its trial answer."""

from __future__ import annotations

import math
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
    RequestFeature,
    Signal,
)
from experiments.policies.parameters import Parameter, declare

AGGREGATE = Parameter(
    str,
    "How the probabilities of the answer's tokens become one confidence.",
    choices=("geometric", "arithmetic", "min"),
)


def trial_confidence(token_logprobs: tuple[float, ...], aggregate: str) -> float:
    """Confidence in [0, 1] of a trial answer from its tokens' log-probabilities; no token gives 0.

    ``geometric`` is exp(mean log p) (DEER, Yang et al. 2025, arXiv:2504.15895, equation 4),
    ``arithmetic`` the mean and ``min`` the smallest of the token probabilities.
    """
    if not token_logprobs:
        return 0.0
    if aggregate == "geometric":
        return math.exp(math.fsum(token_logprobs) / len(token_logprobs))
    probabilities = [math.exp(logprob) for logprob in token_logprobs]
    if aggregate == "arithmetic":
        return math.fsum(probabilities) / len(probabilities)
    return min(probabilities)


@dataclass(frozen=True, slots=True, kw_only=True)
class Confidence(Policy):
    """Exit after ``patience`` probes in a row whose trial answer has at least ``threshold`` confidence.

    Source: DEER (Yang et al. 2025, arXiv:2504.15895), with patience added.
    """

    name: ClassVar[str] = "confidence"
    title: ClassVar[str] = "Confidence"
    summary: ClassVar[str] = "End thinking when the model is sure enough of its trial answer."
    source: ClassVar[str] = "DEER (arXiv:2504.15895)"
    signals: ClassVar[frozenset[Signal]] = frozenset({Signal.TRIAL_ANSWER, Signal.TRIAL_CONFIDENCE})
    # A trial answer is a plain text: it says nothing about a tool call or a schema.
    eligible: ClassVar[frozenset[RequestFeature]] = frozenset({RequestFeature.SEVERAL_CHOICES})

    threshold: float = declare(
        Parameter(
            float,
            "Smallest confidence that counts as sure.",
            unit="probability",
            minimum=0.0,
            maximum=1.0,
        ),
        default=0.95,
    )
    aggregate: str = declare(AGGREGATE, default="geometric")
    patience: int = declare(
        Parameter(int, "How many probes in a row must be sure.", unit="probes", minimum=1, maximum=MAX_PROBES),
        default=1,
    )
    probe_every: int | None = declare(PROBE_EVERY_OR_STEP, default=None)
    min_thinking_tokens: int = declare(MIN_THINKING_TOKENS, default=0)

    def schedule(self) -> ProbeSchedule:
        return ProbeSchedule(every=self.probe_every, minimum=self.min_thinking_tokens)

    def initial_state(self) -> int:
        return 0

    def observe(self, state: Any, observation: Observation) -> tuple[int, Exit | None]:
        trial = observation.trial
        sure = 0.0 if trial is None else trial_confidence(trial.token_logprobs, self.aggregate)
        run = state + 1 if sure >= self.threshold else 0
        if run < self.patience:
            return run, None
        detail = f"confidence {sure:.4f} >= {self.threshold:g} at {run} probes in a row (patience {self.patience})"
        return run, Exit(ExitReason.CONFIDENT, observation.thinking_tokens, detail)
