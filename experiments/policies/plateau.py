"""`plateau`: training's early stopping, applied to decoding: stop when confidence no longer rises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from experiments.policies.base import (
    MAX_PROBES,
    MIN_THINKING_TOKENS,
    PROBE_EVERY,
    Exit,
    ExitReason,
    Observation,
    Policy,
    ProbeSchedule,
    RequestFeature,
    Signal,
)
from experiments.policies.confidence import AGGREGATE, trial_confidence
from experiments.policies.parameters import Parameter, declare


@dataclass(frozen=True, slots=True)
class _Best:
    """The best confidence so far (None before the first trial answer) and the probes since without a gain."""

    confidence: float | None = None
    without_gain: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plateau(Policy):
    """Exit when the confidence of the trial answer has not gained more than ``delta`` for ``patience`` probes.

    A trial without an answer says nothing: it neither gains nor counts.

    Source: early stopping by patience and minimum gain (Prechelt 1998, Early Stopping - But When?), as training
    frameworks have it, with the confidence of DEER (arXiv:2504.15895) in place of the validation score.
    """

    name: ClassVar[str] = "plateau"
    title: ClassVar[str] = "Plateau"
    summary: ClassVar[str] = "End thinking when confidence in the trial answer stops rising (patience and delta)."
    source: ClassVar[str] = "early stopping (Prechelt 1998) on DEER's confidence (arXiv:2504.15895)"
    signals: ClassVar[frozenset[Signal]] = frozenset({Signal.TRIAL_ANSWER, Signal.TRIAL_CONFIDENCE})
    # A trial answer is a plain text: it says nothing about a tool call or a schema.
    eligible: ClassVar[frozenset[RequestFeature]] = frozenset({RequestFeature.SEVERAL_CHOICES})

    delta: float = declare(
        Parameter(
            float,
            "The smallest gain over the best confidence so far that counts as one.",
            unit="probability",
            minimum=0.0,
            maximum=1.0,
        ),
        default=0.01,
    )
    patience: int = declare(
        Parameter(int, "How many probes in a row without a gain.", unit="probes", minimum=1, maximum=MAX_PROBES),
        default=3,
    )
    aggregate: str = declare(AGGREGATE, default="geometric")
    probe_every: int = declare(PROBE_EVERY, default=64)
    min_thinking_tokens: int = declare(MIN_THINKING_TOKENS, default=0)

    def schedule(self) -> ProbeSchedule:
        return ProbeSchedule(every=self.probe_every, minimum=self.min_thinking_tokens)

    def initial_state(self) -> _Best:
        return _Best()

    def observe(self, state: Any, observation: Observation) -> tuple[_Best, Exit | None]:
        trial = observation.trial
        if trial is None or not trial.token_logprobs:
            return state, None
        confidence = trial_confidence(trial.token_logprobs, self.aggregate)
        if state.confidence is None or confidence - state.confidence > self.delta:
            return _Best(confidence), None
        waited = _Best(state.confidence, state.without_gain + 1)
        if waited.without_gain < self.patience:
            return waited, None
        detail = (
            f"no gain above {self.delta:g} over confidence {state.confidence:.4f} "
            f"at {waited.without_gain} probes in a row (patience {self.patience})"
        )
        return waited, Exit(ExitReason.PLATEAU, observation.thinking_tokens, detail)
