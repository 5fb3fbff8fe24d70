"""`run_jump`: stop when a run of equal trial answers outgrows all earlier runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from experiments.policies.answer_convergence import AnswerRun
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


@dataclass(frozen=True, slots=True)
class _Runs:
    """The run of equal trial answers that goes on, and the length of the longest one that ended."""

    run: AnswerRun = field(default_factory=AnswerRun)
    longest: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunJump(Policy):
    """Exit when the present run of equal trial answers is longer than the longest earlier one by ``min_jump``.

    An empty answer ends a run and is none itself.

    Source: ES-CoT (arXiv:2509.14004): the run length of identical step answers jumps when the answer has settled.
    """

    name: ClassVar[str] = "run_jump"
    title: ClassVar[str] = "Run jump"
    summary: ClassVar[str] = "End thinking when one trial answer lasts clearly longer than any before."
    source: ClassVar[str] = "ES-CoT (arXiv:2509.14004)"
    signals: ClassVar[frozenset[Signal]] = frozenset({Signal.TRIAL_ANSWER})
    # A trial answer is a plain text: it says nothing about a tool call or a schema.
    eligible: ClassVar[frozenset[RequestFeature]] = frozenset({RequestFeature.SEVERAL_CHOICES})

    min_jump: int = declare(
        Parameter(
            int,
            "By how many probes the run must exceed the longest earlier run.",
            unit="probes",
            minimum=1,
            maximum=MAX_PROBES,
        ),
        default=5,
    )
    probe_every: int | None = declare(PROBE_EVERY_OR_STEP, default=None)
    min_thinking_tokens: int = declare(MIN_THINKING_TOKENS, default=0)

    def schedule(self) -> ProbeSchedule:
        return ProbeSchedule(every=self.probe_every, minimum=self.min_thinking_tokens)

    def initial_state(self) -> _Runs:
        return _Runs()

    def observe(self, state: Any, observation: Observation) -> tuple[_Runs, Exit | None]:
        run = state.run.after(observation)
        # A run of length 1 or 0 has just begun: the one before has ended.
        runs = _Runs(run, max(state.longest, state.run.length) if run.length <= 1 else state.longest)
        if run.length - runs.longest < self.min_jump:
            return runs, None
        detail = f"{run.length} equal trial answers in a row, {runs.longest} at most before (jump {self.min_jump})"
        return runs, Exit(ExitReason.RUN_JUMP, observation.thinking_tokens, detail)
