"""`answer_convergence`: stop when several trial answers in a row are equal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from experiments.grading import normalise_answer
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
from experiments.policies.parameters import Parameter, declare


@dataclass(frozen=True, slots=True)
class AnswerRun:
    """The last trial answer (normalised) and how many probes in a row gave it."""

    answer: str = ""
    length: int = 0

    def after(self, observation: Observation) -> AnswerRun:
        """The run with this probe's answer; an empty answer breaks it."""
        trial = observation.trial
        answer = normalise_answer(trial.text) if trial is not None else ""
        if not answer:
            return AnswerRun()
        return AnswerRun(answer, self.length + 1 if answer == self.answer else 1)


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
    # A trial answer is a plain text: it says nothing about a tool call or a schema.
    eligible: ClassVar[frozenset[RequestFeature]] = frozenset({RequestFeature.SEVERAL_CHOICES})

    patience: int = declare(
        Parameter(int, "How many trial answers in a row must be equal.", unit="probes", minimum=2, maximum=MAX_PROBES),
        default=8,
    )
    probe_every: int = declare(PROBE_EVERY, default=64)
    min_thinking_tokens: int = declare(MIN_THINKING_TOKENS, default=0)

    def schedule(self) -> ProbeSchedule:
        return ProbeSchedule(every=self.probe_every, minimum=self.min_thinking_tokens)

    def initial_state(self) -> AnswerRun:
        return AnswerRun()

    def observe(self, state: Any, observation: Observation) -> tuple[AnswerRun, Exit | None]:
        run = state.after(observation)
        if run.length < self.patience:
            return run, None
        detail = f"{run.length} equal trial answers in a row (patience {self.patience})"
        return run, Exit(ExitReason.CONVERGED, observation.thinking_tokens, detail)
