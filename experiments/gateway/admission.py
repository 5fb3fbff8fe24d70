"""Admitting a request: who it is from, which arm serves it, and the two records that say so."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import Any

from experiments import wire
from experiments.assignment import is_drawn
from experiments.gateway.chat_request import ChatRequest
from experiments.gateway.errors import ApiError
from experiments.gateway.observing import current
from experiments.routing import Assignment, Route, Routing, RunningExperiment, assign
from experiments.services.secrets import api_key_digest, unit_digest


@dataclass(frozen=True, slots=True)
class Admitted:
    """An admitted request.

    Attributes:
        deadline_at: seconds since the epoch.
    """

    id: str
    route: Route
    assignment: Assignment
    admitted_at: float
    deadline_at: float

    @property
    def headers(self) -> dict[str, str]:
        """Response headers that say what was decided."""
        headers = {"x-request-id": self.id, "x-curtail-use-case": self.route.slug}
        if self.assignment.experiment is not None:
            headers["x-curtail-experiment"] = str(self.assignment.experiment.id)
            headers["x-curtail-variant"] = self.assignment.arm.variant_key or ""
        if self.assignment.suspended:
            headers["x-curtail-suspended"] = "no recent look"
        return headers


def authorise(routing: Routing, authorization: str | None) -> Route:
    """The route of an Authorization header.

    Raises:
        ApiError: 401 without a known key, 403 when the key may not serve.
    """
    scheme, _, token = (authorization or "").partition(" ")
    grant = routing.keys.get(api_key_digest(token.strip())) if scheme.lower() == "bearer" else None
    if grant is None:
        raise ApiError(401, "a valid API key is needed: Authorization: Bearer ck_...", "invalid_api_key")
    if "serve" not in grant.scopes:
        raise ApiError(403, "this API key lacks the scope 'serve'", "insufficient_scope")
    return routing.routes[grant.use_case]


def decide(route: Route, request: ChatRequest, unwatched: frozenset[int] = frozenset()) -> Admitted:
    """Assign the request and give it an id and a deadline.

    Args:
        route: its use case.
        request: what it asks for.
        unwatched: ids of the experiments without a recent look.

    Raises:
        ApiError: 404 when it asks for a model that its use case does not serve.
    """
    if request.model not in (route.model, route.slug):
        raise ApiError(
            404,
            f"model must be {route.model!r} (or the use case's name {route.slug!r}), got {request.model!r}",
            "model_not_found",
            "model",
        )
    request_id = f"chatcmpl-{uuid.uuid4().hex}"
    units = {"conversation": request.conversation, "user": request.user, "request": request_id}
    now = time.time()
    return Admitted(request_id, route, assign(route, units, unwatched), now, now + route.deadline_seconds)


def admission_record(admitted: Admitted, request: ChatRequest) -> wire.AdmissionRecord:
    """The record that a request was admitted. The reference is in it alone; what an engine sees has none."""
    arm = admitted.assignment.arm
    experiment = admitted.assignment.experiment
    return wire.AdmissionRecord(
        id=admitted.id,
        use_case_id=admitted.route.use_case_id,
        checkpoint_id=arm.checkpoint_id,
        phase_id=experiment.phase_id if experiment else None,
        variant_id=arm.variant_id if experiment else None,
        unit_hash=unit_digest(admitted.assignment.unit) if admitted.assignment.unit else "",
        policy=dict(arm.policy),
        policy_version=arm.policy_version,
        reference=request.reference,
        admitted_at=admitted.admitted_at,
        deadline_at=admitted.deadline_at,
        prompt_characters=request.prompt_characters,
        segment=request.segment,
        sampling=_sampling(admitted, request),
        retention=admitted.route.retention,
        user_hash=unit_digest(request.user) if request.user else "",
        conversation_hash=unit_digest(request.conversation) if request.conversation else "",
        **_draws(admitted, experiment),
    )


def serve_request(admitted: Admitted, request: ChatRequest, reply_to: str) -> wire.ServeRequest:
    """What an engine is asked for."""
    return wire.ServeRequest(
        id=admitted.id,
        reply_to=reply_to,
        messages=request.messages,
        policy=dict(admitted.assignment.arm.policy),
        stream=request.stream,
        temperature=_temperature(admitted, request),
        top_p=request.top_p,
        seed=request.seed,
        max_tokens=request.max_tokens,
        client_cap=request.client_cap,
        admitted_at=admitted.admitted_at,
        deadline_at=admitted.deadline_at,
        traceparent=seen.traceparent if (seen := current()) else "",
        retention=admitted.route.retention,
    )


def _sampling(admitted: Admitted, request: ChatRequest) -> dict[str, Any]:
    """How tokens are drawn, and the client's own limits, for the record."""
    sampling = {
        "temperature": _temperature(admitted, request),
        "top_p": request.top_p,
        "max_tokens": request.max_tokens,
    }
    return sampling if request.client_cap is None else sampling | {"client_cap": request.client_cap}


def _temperature(admitted: Admitted, request: ChatRequest) -> float:
    return admitted.route.temperature if request.temperature is None else request.temperature


def _draws(admitted: Admitted, experiment: RunningExperiment | None) -> dict[str, Any]:
    """What the samples of an experiment say to this request; drawn here, before anything is known of its answer."""
    if experiment is None:
        return {}
    every, salt, request_id = experiment.audit_every, experiment.salt, admitted.id
    # A shadow run goes over the stored thinking again.
    kept = admitted.route.retention == wire.KEEP
    return {
        "audit_every": every,
        "audited": every > 0 and is_drawn(salt, "audit", request_id, 1 / every),
        "shadowed": kept and is_drawn(salt, "shadow", request_id, experiment.shadow_share),
    }
