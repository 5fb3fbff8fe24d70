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
    Signal,
    TrialAnswer,
)
from experiments.policies.confidence import Confidence
from experiments.policies.full import Full
from experiments.policies.registry import (
    POLICIES,
    policy_from_spec,
    policy_schema,
    policy_to_spec,
    policy_version,
)
from experiments.policies.run import PolicyRun, Step
from experiments.policies.token_budget import TokenBudget

__all__ = [
    "POLICIES",
    "AnswerConvergence",
    "Confidence",
    "Exit",
    "ExitReason",
    "Full",
    "Observation",
    "Policy",
    "PolicyRun",
    "ProbeSchedule",
    "Signal",
    "Step",
    "TokenBudget",
    "TrialAnswer",
    "policy_from_spec",
    "policy_schema",
    "policy_to_spec",
    "policy_version",
]
