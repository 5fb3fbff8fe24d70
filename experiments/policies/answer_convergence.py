"""`answer_convergence`: stop when several trial answers in a row are equal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from experiments.grading import normalise_answer
from experiments.policies.base import (
    MIN_THINKING_TOKENS,
    PROBE_EVERY,
    Exit,
    ExitReason,
    Observation,
    Policy,
    ProbeSchedule,
    Signal,
)
from experiments.policies.parameters import Parameter, declare


@dataclass(frozen=True, slots=True)
class _Run:
    """The last trial answer (normalised) and how many probes in a row gave it."""

    answer: str = ""
    length: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerConvergence(Policy):
    """Exit after ``patience`` equal trial answers in a row; an empty answer breaks the run.

    Source: Certaindex (Fu et al. 2024, arXiv:2412.20993, section 3); Answer Convergence
    (Liu and Wang 2025, arXiv:2506.02536).
    """

    name: ClassVar[str] = "answer_convergence"
    title: ClassVar[str] = "Answer convergence"
    summary: ClassVar[str] = "End thinking when several trial answers in a row are equal."
    source: ClassVar[str] = "Certaindex (arXiv:2412.20993), Answer Convergence (arXiv:2506.02536)"
    signals: ClassVar[frozenset[Signal]] = frozenset({Signal.TRIAL_ANSWER})

    patience: int = declare(
        Parameter(int, "How many trial answers in a row must be equal.", unit="probes", minimum=2, maximum=1000),
        default=8,
    )
    probe_every: int = declare(PROBE_EVERY, default=64)
    min_thinking_tokens: int = declare(MIN_THINKING_TOKENS, default=0)

    def schedule(self) -> ProbeSchedule:
        return ProbeSchedule(every=self.probe_every, minimum=self.min_thinking_tokens)

    def initial_state(self) -> _Run:
        return _Run()

    def observe(self, state: Any, observation: Observation) -> tuple[_Run, Exit | None]:
        trial = observation.trial
        answer = normalise_answer(trial.text) if trial is not None else ""
        if not answer:
            return _Run(), None
        run = _Run(answer, state.length + 1 if answer == state.answer else 1)
        if run.length < self.patience:
            return run, None
        detail = f"{run.length} equal trial answers in a row (patience {self.patience})"
        return run, Exit(ExitReason.CONVERGED, observation.thinking_tokens, detail)
