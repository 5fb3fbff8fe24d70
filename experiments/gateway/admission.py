"""Admitting a request: who it is from, which arm serves it, and the two records that say so."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import Any

from experiments import wire
from experiments.eligibility import Passes, by_full, never, set_aside, unserved
from experiments.gateway.chat_request import ChatRequest
from experiments.gateway.directions import NO_DIRECTIONS, Directions, context_of, forced_assignment
from experiments.gateway.errors import ApiError, invalid
from experiments.gateway.fields import shown
from experiments.gateway.observing import current
from experiments.routing import Assignment, KeyGrant, Route, Routing, assign
from experiments.services.admissions import record_admission
from experiments.services.secrets import api_key_digest


@dataclass(frozen=True, slots=True)
class Admitted:
    """An admitted request.

    Attributes:
        deadline_at: seconds since the epoch.
        context: of the request, "" without.
        ineligible: what its policies are not made for, so that `full` serves it.
    """

    id: str
    route: Route
    assignment: Assignment
    admitted_at: float
    deadline_at: float
    context: str = ""
    ineligible: tuple[str, ...] = ()

    @property
    def headers(self) -> dict[str, str]:
        """Response headers that say what was decided."""
        headers = {"x-request-id": self.id, "x-curtail-use-case": self.route.slug}
        if self.assignment.experiment is not None:
            headers["x-curtail-experiment"] = str(self.assignment.experiment.id)
            headers["x-curtail-variant"] = self.assignment.arm.variant_key or ""
        if self.assignment.forced:
            headers["x-curtail-experiment"] = str(self.assignment.forced)
            headers["x-curtail-variant"] = self.assignment.arm.variant_key or ""
            headers["x-curtail-forced"] = "true"
        if self.assignment.held_out:
            headers["x-curtail-holdout"] = "true"
        if self.assignment.suspended:
            headers["x-curtail-suspended"] = "no recent look"
        if self.ineligible:
            headers["x-curtail-ineligible"] = ", ".join(self.ineligible)
        return headers


def authorise(routing: Routing, authorization: str | None) -> KeyGrant:
    """What the key of an Authorization header may do.

    Raises:
        ApiError: 401 without a known key, 403 when the key may not serve.
    """
    scheme, _, token = (authorization or "").partition(" ")
    grant = routing.keys.get(api_key_digest(token.strip())) if scheme.lower() == "bearer" else None
    if grant is None:
        raise ApiError(401, "a valid API key is needed: Authorization: Bearer ck_...", "invalid_api_key")
    if "serve" not in grant.scopes:
        raise ApiError(403, "this API key lacks the scope 'serve'", "insufficient_scope")
    return grant


def unknown_model(route: Route, name: str) -> ApiError:
    """A 404 about a model that a use case does not serve."""
    message = f"model must be {route.model!r} (or the use case's name {route.slug!r}), got {shown(name)}"
    return ApiError(404, message, "model_not_found", "model")


def decide(
    route: Route,
    request: ChatRequest,
    unwatched: frozenset[int] = frozenset(),
    directions: Directions = NO_DIRECTIONS,
    passes: Passes = never,
) -> Admitted:
    """Assign the request and give it an id and a deadline.

    Args:
        route: its use case.
        request: what it asks for.
        unwatched: ids of the experiments without a recent look.
        directions: what its headers say.
        passes: whether the server of a checkpoint applies a policy to requests that it gets as they are.

    Raises:
        ApiError: 404 when it asks for a model that its use case does not serve; 400 for what no engine of it can do;
            400 or 403 for a bad context or a forced variant that is not served or not allowed.
    """
    if request.model not in (route.model, route.slug):
        raise unknown_model(route, request.model)
    if (refused := unserved(route.engine, request.features, request.sampling)) is not None:
        param, why = refused
        raise invalid(param, f"{param} is not served by this model: {why}", "unsupported_parameter")
    ineligible = set_aside(route, request.features, passes)
    request_id = f"chatcmpl-{uuid.uuid4().hex}"
    units = {"conversation": request.conversation, "user": request.user, "request": request_id}
    now = time.time()
    context = context_of(request, directions)
    # A bad header of a tester is refused whatever becomes of the request.
    forced = forced_assignment(route, directions, now)
    assignment = by_full(route) if ineligible else forced or assign(route, units, unwatched, context)
    return Admitted(request_id, route, assignment, now, now + route.deadline_seconds, context, ineligible)


def admission_record(admitted: Admitted, request: ChatRequest) -> wire.AdmissionRecord:
    """The record that a request was admitted. The reference is in it alone; what an engine sees has none."""
    return record_admission(
        admitted.id,
        admitted.route,
        admitted.assignment,
        admitted_at=admitted.admitted_at,
        deadline_at=admitted.deadline_at,
        reference=request.reference,
        segment=request.segment or admitted.context,
        prompt_characters=request.prompt_characters,
        sampling=_sampling(admitted, request),
        may_shadow=not request.stop,
        user=request.user,
        conversation=request.conversation,
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
        stop=list(request.stop),
        passthrough=request.passthrough,
        extra_sampling=dict(request.sampling),
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
