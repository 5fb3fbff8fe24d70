"""What a worker tells Prometheus, by a small HTTP server of its own."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from experiments import wire
from experiments.measures import Counter, Labels, gauge

logger = logging.getLogger(__name__)
_TOKEN_KINDS = ("thinking", "answer", "probe", "overrun")


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """How busy one checkpoint's engine is.

    Attributes:
        in_flight: requests that are decoded.
        capacity: how many it takes at once.
        shadow: shadow runs beside them.
    """

    checkpoint_id: int
    in_flight: int
    capacity: int
    shadow: int


class WorkerMetrics(Collector):
    """Counts what ended in this process, and asks its parts for what is when Prometheus asks."""

    def __init__(self) -> None:
        self._ended = Counter(
            "curtail_worker_requests", "Requests that an engine host ended", ("checkpoint", "outcome")
        )
        self._tokens = Counter(
            "curtail_worker_decoded_tokens", "Tokens decoded; its rate is tokens/s", ("checkpoint", "kind")
        )
        self._stored = Counter("curtail_worker_ledger_entries", "Ledger entries stored or set aside", ("outcome",))
        self._behind = 0.0
        self._written_at = 0.0
        self.engines: Callable[[], Iterable[EngineLoad]] = tuple
        self.outbox_events: Callable[[], int] = int
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def ended(self, checkpoint_id: int, record: wire.CompletionRecord) -> None:
        """A request has ended."""
        checkpoint = str(checkpoint_id)
        self._ended.add((checkpoint, record.outcome))
        for kind in _TOKEN_KINDS:
            if count := getattr(record, f"{kind}_tokens"):
                self._tokens.add((checkpoint, kind), count)

    def stored(self, count: int, set_aside: int, oldest_id: bytes) -> None:
        """The batch writer has worked off a batch.

        Args:
            count: entries in it.
            set_aside: entries that could not be stored.
            oldest_id: stream id of its first entry, which begins with milliseconds since the epoch.
        """
        self._stored.add(("stored",), count - set_aside)
        self._stored.add(("set_aside",), set_aside)
        self._written_at = time.time()
        self._behind = max(0.0, self._written_at - int(oldest_id.split(b"-")[0]) / 1000)

    def idle(self) -> None:
        """The batch writer has found nothing to store."""
        self._written_at, self._behind = time.time(), 0.0

    def collect(self) -> Iterator[Metric]:
        """Everything, as Prometheus has it."""
        for counter in (self._ended, self._tokens, self._stored):
            yield from counter.collect()
        loads = list(self.engines())
        for name, text in (
            ("in_flight", "Requests that are decoded"),
            ("capacity", "Requests that the engine takes at once"),
            ("shadow", "Shadow runs that are decoded"),
        ):
            values: dict[Labels, float] = {(str(load.checkpoint_id),): getattr(load, name) for load in loads}
            yield gauge(f"curtail_worker_engine_{name}", text, ("checkpoint",), values)
        outbox = float(self.outbox_events())
        yield gauge("curtail_worker_outbox_events", "Replies that are not in Redis yet", (), {(): outbox})
        if self._written_at:
            # While a batch can't be stored the lag grows by the clock.
            lag = self._behind + max(0.0, time.time() - self._written_at)
            yield gauge("curtail_worker_ledger_lag_seconds", "Age of the oldest entry not stored", (), {(): lag})


@cache
def worker_metrics() -> WorkerMetrics:
    """This process's."""
    return WorkerMetrics()


class MetricsServer:
    """Serves /metrics of this worker in a thread.

    Args:
        host: address to listen on.
        port: port to listen on.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._server: Any = None
        self._thread: Any = None

    def start(self) -> None:
        """Start to listen."""
        self._server, self._thread = start_http_server(self._port, self._host, worker_metrics().registry)
        logger.info("metrics of this worker are at http://%s:%d/metrics", self._host, self._port)

    def stop(self) -> None:
        """Stop listening. Returns when done."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
