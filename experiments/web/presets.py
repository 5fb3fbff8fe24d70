"""Treatments to start from. Both look every 32 thinking tokens; they differ in how soon they are sure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from experiments.policies import AnswerConvergence, Confidence, Policy, policy_to_spec


@dataclass(frozen=True, slots=True)
class Preset:
    """A named policy with one sentence on what to expect."""

    title: str
    expectation: str
    policy: Policy

    @property
    def spec(self) -> dict[str, Any]:
        """The policy's JSON form."""
        return policy_to_spec(self.policy)


PRESETS: Mapping[str, Preset] = {
    "conservative": Preset(
        "Conservative",
        "Two trial answers in a row of which the model is sure: saves less, seldom loses an answer.",
        Confidence(threshold=0.95, patience=2, probe_every=32),
    ),
    "aggressive": Preset(
        "Aggressive",
        "Two equal trial answers in a row, sure or not: saves most, and may lose answers.",
        AnswerConvergence(patience=2, probe_every=32),
    ),
}
