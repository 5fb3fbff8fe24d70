"""Stopping policies: pure state machines that decide when a reasoning model may stop thinking.

A policy is a frozen value. An engine feeds it one observation per probe point through a
:class:`~experiments.policies.run.PolicyRun`; the same object decides online and in replay.
"""

from __future__ import annotations

from experiments.policies.answer_convergence import AnswerConvergence
from experiments.policies.base import (
    Exit,
    ExitReason,
    Observation,
    Policy,
    ProbeSchedule,
    RequestFeature,
    Signal,
    TrialAnswer,
)
from experiments.policies.confidence import Confidence
from experiments.policies.end_margin import EndMargin
from experiments.policies.entropy_plateau import EntropyPlateau
from experiments.policies.full import Full
from experiments.policies.plateau import Plateau
from experiments.policies.registry import (
    BUILT_IN,
    POLICIES,
    BadPolicyPlugin,
    policies_schema,
    policy_from_spec,
    policy_schema,
    policy_to_spec,
    policy_version,
)
from experiments.policies.run import PolicyRun, Step
from experiments.policies.run_jump import RunJump
from experiments.policies.token_budget import TokenBudget

__all__ = [
    "BUILT_IN",
    "POLICIES",
    "AnswerConvergence",
    "BadPolicyPlugin",
    "Confidence",
    "EndMargin",
    "EntropyPlateau",
    "Exit",
    "ExitReason",
    "Full",
    "Observation",
    "Plateau",
    "Policy",
    "PolicyRun",
    "ProbeSchedule",
    "RequestFeature",
    "RunJump",
    "Signal",
    "Step",
    "TokenBudget",
    "TrialAnswer",
    "policies_schema",
    "policy_from_spec",
    "policy_schema",
    "policy_to_spec",
    "policy_version",
]
