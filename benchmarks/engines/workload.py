"""Prompts, policies and closed-loop load for measurements of engines."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from demo.scenario import MODEL_PROFILE
from demo.tiny_reasoner.checkpoints import read_index
from demo.tiny_reasoner.task import Problem, Split, held_out_problems
from experiments.grading import normalise_answer
from experiments.policies import (
    AnswerConvergence,
    Confidence,
    EndMargin,
    EntropyPlateau,
    Full,
    Plateau,
    Policy,
    RunJump,
    TokenBudget,
)
from workers.engines.base import Engine, Finished, GenerationRequest, GenerationResult, ThinkingProfile

SEED = 4242
# The parameters are the ones that save something on this model at little cost; end_margin sees little in it.
POLICIES: dict[str, Policy] = {
    "full": Full(),
    "token_budget": TokenBudget(max_thinking_tokens=128),
    "end_margin": EndMargin(threshold=12.0),
    "answer_convergence": AnswerConvergence(patience=3, probe_every=32),
    "confidence": Confidence(threshold=0.95, patience=2, probe_every=32),
    "entropy_plateau": EntropyPlateau(delta=0.02, warm_up=3, probe_every=32),
    "plateau": Plateau(patience=2, probe_every=32),
    "run_jump": RunJump(min_jump=2, probe_every=32),
}
# Never acts: what remains is what watching costs.
INACTIVE = TokenBudget(max_thinking_tokens=1_000_000)

PROFILE = ThinkingProfile(
    step_boundary=MODEL_PROFILE["step_boundary"],
    max_trial_tokens=MODEL_PROFILE["max_trial_tokens"],
    max_context_tokens=MODEL_PROFILE["max_context_tokens"],
)
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Served:
    """One request that was served.

    Attributes:
        problem: the question.
        result: what came.
        seconds: from asking to the end.
    """

    problem: Problem
    result: GenerationResult
    seconds: float

    @property
    def correct(self) -> bool:
        """Exact match."""
        return normalise_answer(self.result.answer) == normalise_answer(self.problem.answer)


def problems(count: int) -> list[Problem]:
    """So many prompts that training never saw."""
    return list(held_out_problems(count, SEED, Split.EVALUATION))


@asynccontextmanager
async def started(kind: str, concurrency: int, profile: ThinkingProfile = PROFILE) -> AsyncIterator[Engine]:
    """A started engine over the last checkpoint, in float32.

    Args:
        kind: "transformers" or "vllm".
        concurrency: requests decoded at once.
        profile: how the model thinks.
    """
    path = str(read_index()[-1].path)
    engine: Engine
    if kind == "transformers":
        from workers.engines.transformers_engine import TransformersEngine

        engine = TransformersEngine(path, profile, max_concurrency=concurrency, threads=1)
    else:
        from workers.engines.vllm_engine.engine import VLLMEngine, VLLMOptions

        engine = VLLMEngine(path, profile, VLLMOptions(max_concurrency=concurrency, dtype="float32", threads=1))
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


async def serve(
    engine: Engine,
    asked: Sequence[Problem],
    policy: Policy,
    concurrency: int,
    done: Callable[[], None] = lambda: None,
) -> tuple[list[Served], float]:
    """Serve questions in a closed loop; in their order, and the seconds it took.

    Args:
        engine: a started engine.
        asked: the questions.
        policy: of all of them.
        concurrency: in flight at any time.
        done: called after each.
    """
    found: list[Served | None] = [None] * len(asked)
    queue = iter(enumerate(asked))

    async def work() -> None:
        for place, problem in queue:
            request = GenerationRequest(
                f"q{next(_numbers)}", [{"role": "user", "content": problem.prompt}], policy, stream=True
            )
            began = time.perf_counter()
            async for event in engine.generate(request):
                if isinstance(event, Finished):
                    found[place] = Served(problem, event.result, time.perf_counter() - began)
            done()

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(concurrency)))
    seconds = time.perf_counter() - began
    return [served for served in found if served is not None], seconds
