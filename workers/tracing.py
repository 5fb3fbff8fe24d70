"""The engine host's span of a request: the decoding, as a child of the gateway's span."""

from __future__ import annotations

import atexit
import dataclasses
from functools import cache

from experiments import wire
from experiments.tracing import Tracer, completion_attributes, configured_tracer


@cache
def worker_tracer() -> Tracer | None:
    """This process's tracer; None when not configured."""
    tracer = configured_tracer("curtail-engine-host")
    if tracer is not None:
        atexit.register(tracer.shut_down)
    return tracer


def trace_decoding(request: wire.ServeRequest, record: wire.CompletionRecord) -> None:
    """Write the span of a request that has just ended, from what its record says."""
    tracer = worker_tracer()
    if tracer is None:
        return
    began = request.admitted_at + (record.queue_seconds or 0.0)
    span = tracer.start("decode", request.traceparent, "CONSUMER", min(began, record.completed_at))
    attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "curtail",
        "gen_ai.response.id": request.id,
        "curtail.outcome": record.outcome,
        "curtail.policy": request.policy["name"],
        "curtail.queue_seconds": record.queue_seconds,
        "curtail.deliveries": record.deliveries,
        **completion_attributes(dataclasses.asdict(record)),
    }
    tracer.end(span, attributes, record.completed_at, "" if record.outcome == "answered" else record.outcome)
