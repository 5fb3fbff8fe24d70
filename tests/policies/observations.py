"""Short ways to write probe points and to run a policy over them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from experiments.policies import Exit, Observation, Policy, TrialAnswer


def answered(text: str, at: int = 64) -> Observation:
    """A probe point with a trial answer."""
    return Observation(at, TrialAnswer(text))


def sure(*probabilities: float, at: int = 64) -> Observation:
    """A probe point whose trial answer has these token probabilities."""
    return Observation(at, TrialAnswer("42", tuple(math.log(p) if p else -math.inf for p in probabilities)))


def decide(policy: Policy, observations: Sequence[Observation]) -> tuple[int, Exit] | None:
    """Number (from 1) of the observation at which the policy exits, and the exit."""
    state = policy.initial_state()
    for number, observation in enumerate(observations, 1):
        state, decision = policy.observe(state, observation)
        if decision is not None:
            return number, decision
    return None
