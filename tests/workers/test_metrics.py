"""What a worker tells Prometheus, over HTTP."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families

from curtail.processes import Supervisor, http_ready
from experiments import wire
from experiments.models import UseCase
from tests.system.conftest import registered as registered  # the fixture
from tests.system.conftest import wait_for
from tests.workers.test_ledger_writer import admission, put
from workers import metrics
from workers.metrics import EngineLoad, MetricsServer, WorkerMetrics

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def read(port: int) -> dict[str, float]:
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {f"{s.name}{sorted(s.labels.values())}": s.value for s in samples}


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[WorkerMetrics, int]]:
    own = WorkerMetrics()
    monkeypatch.setattr(metrics, "worker_metrics", lambda: own)
    port = free_port()
    server = MetricsServer("127.0.0.1", port)
    server.start()
    yield own, port
    server.stop()


def test_an_engine_hosts_load_and_tokens(served: tuple[WorkerMetrics, int]) -> None:
    own, port = served
    own.engines = lambda: [EngineLoad(7, in_flight=3, capacity=64, shadow=1)]
    record = wire.CompletionRecord("c", "answered", time.time(), thinking_tokens=5, probe_tokens=2)
    own.ended(7, record)
    own.ended(7, record)
    found = read(port)
    assert found["curtail_worker_engine_in_flight['7']"] == 3
    assert found["curtail_worker_engine_capacity['7']"] == 64
    assert found["curtail_worker_requests_total['7', 'answered']"] == 2
    assert found["curtail_worker_decoded_tokens_total['7', 'thinking']"] == 10
    assert found["curtail_worker_decoded_tokens_total['7', 'probe']"] == 4


def test_the_batch_writers_lag_is_the_age_of_what_it_stored_last(served: tuple[WorkerMetrics, int]) -> None:
    own, port = served
    assert "curtail_worker_ledger_lag_seconds[]" not in read(port)
    own.stored(10, 1, f"{int((time.time() - 30) * 1000)}-0".encode())
    found = read(port)
    assert 30 <= found["curtail_worker_ledger_lag_seconds[]"] < 40
    assert found["curtail_worker_ledger_entries_total['stored']"] == 9
    assert found["curtail_worker_ledger_entries_total['set_aside']"] == 1
    own.idle()
    assert read(port)["curtail_worker_ledger_lag_seconds[]"] < 5


def test_a_stopped_server_has_left_its_port() -> None:
    port = free_port()
    server = MetricsServer("127.0.0.1", port)
    server.start()
    server.stop()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))


def test_a_worker_serves_its_metrics_where_a_port_is_set(
    registered: UseCase, redis_client: redis.Redis, child_environment: dict[str, str], tmp_path: Path
) -> None:
    port = free_port()
    argv = [sys.executable, "-m", "celery", "-A", "curtail.celery_app", "worker", "-P", "threads", "-c", "1"]
    argv += ["--without-gossip", "--without-mingle", "--without-heartbeat", "-Q", "none", "--ledger-writer"]
    environment = {**child_environment, "CURTAIL_WORKER_METRICS_PORT": str(port), "PATH": os.environ["PATH"]}
    with Supervisor(tmp_path / "logs") as supervisor:
        ready = http_ready(f"http://127.0.0.1:{port}/metrics")
        supervisor.start("worker", argv, ready=ready, env=environment, cwd=ROOT)
        put(redis_client, "admission", admission(registered, 1))
        wait_for(lambda: read(port).get("curtail_worker_ledger_entries_total['stored']") == 1)
