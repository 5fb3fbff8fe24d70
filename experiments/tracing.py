"""OpenTelemetry spans by the GenAI semantic conventions; nothing of OpenTelemetry is imported unless configured."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

_NANOSECONDS = 1_000_000_000


def is_configured() -> bool:
    """Whether the environment asks for traces: OpenTelemetry's own endpoint variables, or CURTAIL_TRACING=1."""
    names = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return any(os.environ.get(name) for name in names) or os.environ.get("CURTAIL_TRACING", "") in ("1", "true", "yes")


class Tracer:
    """Makes spans that start and end when told, and belong to no context variable.

    Args:
        provider: an ``opentelemetry.sdk.trace.TracerProvider``.
    """

    def __init__(self, provider: Any) -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("curtail")
        self._context = TraceContextTextMapPropagator()
        self._trace = trace

    def start(self, name: str, traceparent: str, kind: str, at: float) -> Any:
        """A started span.

        Args:
            name: of the span.
            traceparent: W3C context of its parent; "" for a root.
            kind: SERVER, CONSUMER or another of OpenTelemetry's.
            at: seconds since the epoch.
        """
        parent = self._context.extract({"traceparent": traceparent}) if traceparent else None
        return self._tracer.start_span(
            name, context=parent, kind=self._trace.SpanKind[kind], start_time=int(at * _NANOSECONDS)
        )

    def traceparent(self, span: Any) -> str:
        """The W3C context of a span, for who comes next."""
        carrier: dict[str, str] = {}
        self._context.inject(carrier, self._trace.set_span_in_context(span))
        return carrier.get("traceparent", "")

    def end(self, span: Any, attributes: Mapping[str, Any], at: float, error: str = "") -> None:
        """End a span.

        Args:
            span: of :meth:`start`.
            attributes: those without a value are left out.
            at: seconds since the epoch.
            error: kind of the failure; "" when there was none.
        """
        span.set_attributes({name: value for name, value in attributes.items() if value not in (None, "", [], ())})
        if error:
            span.set_attribute("error.type", error)
            span.set_status(self._trace.StatusCode.ERROR)
        span.end(end_time=int(at * _NANOSECONDS))

    def shut_down(self) -> None:
        """Export what is left. Blocks."""
        self._provider.shutdown()


def configured_tracer(service: str) -> Tracer | None:
    """A tracer that exports by OTLP over HTTP, as OpenTelemetry's variables say; None when not configured.

    Args:
        service: name of this part, unless OTEL_SERVICE_NAME names it.
    """
    if not is_configured():
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    name = os.environ.get("OTEL_SERVICE_NAME") or service
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracer(provider)


def completion_attributes(record: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes that a completion record gives, without a word of prompt or answer."""
    output = record["thinking_tokens"] + record["overrun_tokens"] + record["answer_tokens"]
    return {
        "gen_ai.usage.input_tokens": record["prompt_tokens"],
        "gen_ai.usage.output_tokens": output,
        "gen_ai.response.finish_reasons": [record["finish_reason"]] if record["finish_reason"] else None,
        "curtail.tokens.thinking": record["thinking_tokens"],
        "curtail.tokens.overrun": record["overrun_tokens"],
        "curtail.tokens.probe": record["probe_tokens"],
        "curtail.exit.reason": record["exit_reason"],
        "curtail.exit.decision_step": record["decision_step"],
        "curtail.exit.applied_step": record["applied_step"],
    }
