"""The gateway's span of a request."""

from __future__ import annotations

import time

from experiments.gateway.observing import Observation
from experiments.tracing import Tracer, completion_attributes


def start_span(tracer: Tracer, seen: Observation) -> None:
    """Begin the span of a request and put its context in the place of the client's."""
    seen.span = tracer.start(seen.path, seen.traceparent, "SERVER", seen.began_at)
    seen.traceparent = tracer.traceparent(seen.span)


def end_span(tracer: Tracer, seen: Observation) -> None:
    """End it with what is known by now."""
    span, outcome = seen.span, seen.outcome
    attributes = {
        "http.request.method": seen.method,
        "url.path": seen.path,
        "http.response.status_code": seen.status or None,
        "curtail.request.id": seen.own_id(),
        "curtail.outcome": outcome,
    }
    if seen.admitted:
        span.update_name(f"chat {seen.model}")
        attributes |= {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "curtail",
            "gen_ai.request.model": seen.model,
            "gen_ai.response.id": seen.id,
            "curtail.use_case": seen.use_case,
            "curtail.variant": seen.variant,
            "curtail.policy": seen.policy,
        }
    if seen.record is not None:
        attributes |= completion_attributes(seen.record)
    failed = outcome in ("error", "timeout", "cancelled") or seen.status >= 500
    tracer.end(span, attributes, time.time(), (seen.code or outcome) if failed else "")
