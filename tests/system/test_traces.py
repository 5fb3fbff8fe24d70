"""Traces of a real gateway process, taken in by a collector over OTLP."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.system.gateway_process import Start
from tests.system.gateway_process import start_gateway as start_gateway  # the fixture

CLIENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Collector(BaseHTTPRequestHandler):
    """Keeps what is sent to /v1/traces."""

    received: list[Any]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.received.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[HTTPServer]:
    Collector.received = []
    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_stopping_gateway_has_exported_its_spans(start_gateway: Start, collector: HTTPServer) -> None:
    endpoint = f"http://127.0.0.1:{collector.server_port}"
    gateway = start_gateway(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_BSP_SCHEDULE_DELAY="60000")
    url = f"{gateway.url}/v1/chat/completions"
    with ThreadPoolExecutor(1) as clients:
        headers = {**gateway.headers, "traceparent": CLIENT}
        answer = clients.submit(httpx.post, url, json=gateway.body(prompt="a secret prompt"), headers=headers)
        (request,) = gateway.taken()
        gateway.finish(request)
        assert answer.result(15).status_code == 200
    gateway.terminate()
    assert gateway.child.process.wait(20) == 0
    (batch,) = Collector.received
    (span,) = batch.resource_spans[0].scope_spans[0].spans
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (CLIENT.split("-")[1], CLIENT.split("-")[2])
    # The engine host's span will hang below this one.
    assert request.traceparent == f"00-{span.trace_id.hex()}-{span.span_id.hex()}-01"
    assert "a secret prompt" not in str(batch)
