"""Spans of gateway and engine host, kept in memory."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from experiments import tracing, wire
from experiments.gateway.observing import Observation, begin
from experiments.gateway.tracing import end_span, start_span
from workers import tracing as worker_tracing

ROOT = Path(__file__).resolve().parents[1]
CLIENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer(exporter: InMemorySpanExporter) -> tracing.Tracer:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return tracing.Tracer(provider)


def completion(**changes: Any) -> wire.CompletionRecord:
    values = {"prompt_tokens": 7, "thinking_tokens": 10, "answer_tokens": 3, "overrun_tokens": 1}
    texts = {"finish_reason": "stop", "exit_reason": "confident", "text": "the answer", "thinking": "the thought"}
    return wire.CompletionRecord("chatcmpl-1", "answered", time.time(), **{**values, **texts, **changes})


def observed(*headers: tuple[bytes, bytes]) -> Observation:
    # In a context of its own: other tests serve other requests.
    return copy_context().run(begin, {"method": "POST", "path": "/v1/chat/completions", "headers": list(headers)})


def admit(seen: Observation) -> None:
    seen.id, seen.admitted, seen.status = "chatcmpl-1", True, 200
    seen.model, seen.use_case, seen.variant, seen.policy = "tiny", "sums", "short", "confidence"


def test_the_gateways_span_follows_the_genai_conventions(
    tracer: tracing.Tracer, exporter: InMemorySpanExporter
) -> None:
    seen = observed((b"traceparent", CLIENT.encode()))
    start_span(tracer, seen)
    admit(seen)
    seen.record = dataclasses.asdict(completion())
    end_span(tracer, seen)
    (span,) = exporter.get_finished_spans()
    assert (span.name, span.kind.name) == ("chat tiny", "SERVER")
    assert f"{span.context.trace_id:032x}" == CLIENT.split("-")[1]
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == CLIENT.split("-")[2]
    wanted = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "tiny",
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 14,
        "gen_ai.response.finish_reasons": ("stop",),
        "curtail.variant": "short",
        "curtail.policy": "confidence",
        "curtail.exit.reason": "confident",
    }
    assert {name: span.attributes[name] for name in wanted} == wanted
    assert not {"the answer", "the thought"} & set(map(str, span.attributes.values()))


def test_the_engine_hosts_span_is_a_child_of_the_gateways(
    tracer: tracing.Tracer, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_tracing, "worker_tracer", lambda: tracer)
    seen = observed()
    start_span(tracer, seen)
    now = time.time()
    request = wire.ServeRequest(
        id="chatcmpl-1",
        reply_to="r",
        messages=[{"role": "user", "content": "the prompt"}],
        policy={"name": "full"},
        stream=False,
        temperature=0.0,
        top_p=1.0,
        seed=None,
        max_tokens=None,
        admitted_at=now - 2,
        deadline_at=now + 60,
        traceparent=seen.traceparent,
    )
    record = completion(queue_seconds=0.5, messages=request.messages)
    worker_tracing.trace_decoding(wire.ServeRequest.decode(request.encode()), record)
    (span,) = exporter.get_finished_spans()
    assert span.parent is not None
    assert span.parent.span_id == seen.span.context.span_id
    assert span.start_time == pytest.approx((now - 1.5) * 1e9, abs=1e6)
    assert span.attributes["gen_ai.usage.output_tokens"] == 14
    assert "the prompt" not in str(span.attributes)


def test_a_failed_request_is_an_error(tracer: tracing.Tracer, exporter: InMemorySpanExporter) -> None:
    seen = observed()
    start_span(tracer, seen)
    admit(seen)
    seen.error = {"code": "timeout", "status": 504}
    end_span(tracer, seen)
    (span,) = exporter.get_finished_spans()
    assert (span.status.status_code.name, span.attributes["error.type"]) == ("ERROR", "timeout")


@pytest.mark.parametrize("broken", [b"", b"00-zz-b7ad6b7169203331-01", b"00-" + b"0" * 200])
def test_a_broken_traceparent_is_left_aside(broken: bytes) -> None:
    assert observed((b"traceparent", broken)).traceparent == ""


def test_without_configuration_nothing_of_opentelemetry_is_imported() -> None:
    script = (
        "import sys; from experiments.tracing import configured_tracer; assert configured_tracer('x') is None; "
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT, env={"PYTHONPATH": "."}
    )
    assert result.stdout.strip() == "[]"
