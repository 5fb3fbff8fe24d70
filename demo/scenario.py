"""What the demo asks: one model, two use cases, two experiments, fixed prompts and salts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from demo.tiny_reasoner.task import Problem, Split, held_out_problems

MODEL = "tiny-reasoner"
MODEL_PROFILE: Mapping[str, Any] = {
    "name": MODEL,
    "engine": "transformers",
    "think_open": "<think>",
    "think_close": "</think>",
    "template_opens_thinking": True,
    "step_boundary": "\n",
    "max_trial_tokens": 4,
    "grader": "exact_match",
    "max_context_tokens": 1024,
    "temperature": 0.0,
}

FULL: Mapping[str, Any] = {"name": "full", "parameters": {}}
CONSERVATIVE: Mapping[str, Any] = {
    "name": "confidence",
    "parameters": {"threshold": 0.95, "patience": 2, "probe_every": 32},
}
AGGRESSIVE: Mapping[str, Any] = {
    "name": "answer_convergence",
    "parameters": {"patience": 2, "probe_every": 24},
}


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm of a demo experiment.

    Attributes:
        step: training step of its checkpoint; None: the last.
    """

    key: str
    policy: Mapping[str, Any]
    step: int | None
    weight: float


@dataclass(frozen=True, slots=True)
class DemoExperiment:
    """One demo experiment, and the traffic that decides it.

    Attributes:
        prompt_seed: seed of the draw from the demo split of the held-out prompts.
    """

    use_case: str
    use_case_name: str
    name: str
    hypothesis: str
    salt: str
    margin: float
    min_saving: float
    requests: int
    prompt_seed: int
    arms: tuple[Arm, ...]

    def problems(self) -> list[Problem]:
        """The fixed prompts; none of them was used in training, in tuning or for the published table."""
        return list(held_out_problems(self.requests, self.prompt_seed, Split.DEMO))


DECODING = DemoExperiment(
    use_case="arithmetic",
    use_case_name="Chains of arithmetic",
    name="Early exit while decoding",
    hypothesis="Leaving the thinking once the answer is settled saves a third of the tokens at the same EM.",
    salt="demo-decoding-1",
    margin=0.05,
    min_saving=0.10,
    requests=1500,
    prompt_seed=1,
    arms=(
        Arm("full", FULL, None, 0.3334),
        Arm("conservative", CONSERVATIVE, None, 0.3333),
        Arm("aggressive", AGGRESSIVE, None, 0.3333),
    ),
)

# How early may training stop? A question about weights, not about tokens: an earlier checkpoint is welcome even
# if it thinks a fifth longer. With about 120 requests an arm the bounds are about 6 points of EM and 12 % of the
# tokens away from the estimates, so only a wide margin can be decided.
TRAINING = DemoExperiment(
    use_case="arithmetic-training",
    use_case_name="Chains of arithmetic (training)",
    name="Early stopping of training",
    hypothesis="An earlier checkpoint answers as well as the last one.",
    salt="demo-training-1",
    margin=0.10,
    min_saving=-0.20,
    requests=360,
    prompt_seed=2,
    arms=(
        Arm("last", FULL, None, 0.3334),
        Arm("earlier", FULL, 1020, 0.3333),
        Arm("much-earlier", FULL, 720, 0.3333),
    ),
)


def experiments() -> tuple[DemoExperiment, ...]:
    """The demo's experiments, in the order in which they run."""
    return DECODING, TRAINING
