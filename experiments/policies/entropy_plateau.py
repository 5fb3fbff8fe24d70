"""`entropy_plateau`: stop when the entropy after the end of thinking has settled."""

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


@dataclass(frozen=True, slots=True)
class _Average:
    """Exponential moving mean (nats) and variance (nats squared) of the entropy, after so many probes."""

    mean: float = 0.0
    variance: float = 0.0
    probes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EntropyPlateau(Policy):
    """Exit when the moving variance of the entropy after the end-of-thinking token falls below ``delta``.

    With weight a = 1 / ``timescale`` and entropy H: the mean moves by a (H - mean), the variance becomes
    (1 - a) variance + a (H - mean)^2 with the new mean; both start at 0 and are divided by 1 - (1 - a)^t after t
    probes, so that the start has no weight.

    Source: EAT, entropy after </think> (arXiv:2509.26522): variance of the exponential moving average of the entropy.
    """

    name: ClassVar[str] = "entropy_plateau"
    title: ClassVar[str] = "Entropy plateau"
    summary: ClassVar[str] = "End thinking when the uncertainty about the answer no longer changes."
    source: ClassVar[str] = "EAT (arXiv:2509.26522)"
    signals: ClassVar[frozenset[Signal]] = frozenset({Signal.END_ENTROPY})

    delta: float = declare(
        Parameter(
            float,
            "The moving variance of the entropy below which it has settled.",
            unit="nats squared",
            minimum=0.0,
            maximum=1000.0,
        ),
        default=0.001,
    )
    timescale: float = declare(
        Parameter(
            float,
            "Over about how many probes the mean and the variance look back.",
            unit="probes",
            minimum=1.0,
            maximum=float(MAX_PROBES),
        ),
        default=5.0,
    )
    warm_up: int = declare(
        Parameter(int, "No exit before so many probes.", unit="probes", minimum=2, maximum=MAX_PROBES), default=4
    )
    probe_every: int | None = declare(PROBE_EVERY_OR_STEP, default=None)
    min_thinking_tokens: int = declare(MIN_THINKING_TOKENS, default=0)

    def schedule(self) -> ProbeSchedule:
        return ProbeSchedule(every=self.probe_every, minimum=self.min_thinking_tokens)

    def initial_state(self) -> _Average:
        return _Average()

    def observe(self, state: Any, observation: Observation) -> tuple[_Average, Exit | None]:
        entropy = observation.end_entropy
        if entropy is None:
            return state, None
        weight = 1.0 / self.timescale
        probes = state.probes + 1
        mean = state.mean + weight * (entropy - state.mean)
        share = 1.0 - (1.0 - weight) ** probes
        variance = (1.0 - weight) * state.variance + weight * (entropy - mean / share) ** 2
        moved = _Average(mean, variance, probes)
        if probes < self.warm_up or variance / share >= self.delta:
            return moved, None
        detail = f"entropy variance {variance / share:.3g} < {self.delta:g} nats squared after {probes} probes"
        return moved, Exit(ExitReason.ENTROPY_SETTLED, observation.thinking_tokens, detail)
