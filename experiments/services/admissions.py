"""The record that a request was admitted: the same whoever serves it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments import wire
from experiments.assignment import is_drawn
from experiments.routing import Assignment, Route, RunningExperiment
from experiments.services.secrets import unit_digest


def record_admission(
    request_id: str,
    route: Route,
    assignment: Assignment,
    *,
    admitted_at: float,
    deadline_at: float,
    reference: str | None,
    segment: str,
    prompt_characters: int,
    sampling: Mapping[str, Any],
    may_shadow: bool = True,
    user: str | None = None,
    conversation: str | None = None,
) -> wire.AdmissionRecord:
    """The record of an admission; times are seconds since the epoch.

    Args:
        may_shadow: whether it may be drawn for a shadow run. One knows no stop strings: its answer would be another.
        user, conversation: their ids, by which texts are found that are to be erased.
    """
    arm, experiment = assignment.arm, assignment.experiment
    return wire.AdmissionRecord(
        id=request_id,
        use_case_id=route.use_case_id,
        checkpoint_id=arm.checkpoint_id,
        phase_id=experiment.phase_id if experiment else None,
        variant_id=arm.variant_id if experiment else None,
        unit_hash=unit_digest(assignment.unit) if assignment.unit else "",
        policy=dict(arm.policy),
        policy_version=arm.policy_version,
        reference=reference,
        admitted_at=admitted_at,
        deadline_at=deadline_at,
        prompt_characters=prompt_characters,
        segment=segment,
        sampling=dict(sampling),
        retention=route.retention,
        user_hash=unit_digest(user) if user else "",
        conversation_hash=unit_digest(conversation) if conversation else "",
        # A shadow run goes over the stored thinking again.
        **_draws(request_id, experiment, may_shadow and route.retention == wire.KEEP),
    )


def _draws(request_id: str, experiment: RunningExperiment | None, may_shadow: bool) -> dict[str, Any]:
    """What the samples of an experiment say to this request; drawn here, before anything is known of its answer."""
    if experiment is None:
        return {}
    every, salt = experiment.audit_every, experiment.salt
    return {
        "audit_every": every,
        "audited": every > 0 and is_drawn(salt, "audit", request_id, 1 / every),
        "shadowed": may_shadow and is_drawn(salt, "shadow", request_id, experiment.shadow_share),
    }
