"""What a gateway tells Prometheus: one registry per process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from experiments.gateway.health import Pulse
from experiments.gateway.limits import Gate
from experiments.gateway.observing import Observation
from experiments.measures import Counter, Histogram, Labels, gauge

TOKEN_KINDS = ("prompt", "thinking", "answer", "probe", "overrun")


class GatewayMetrics(Collector):
    """Counts what ended and shows what is.

    Args:
        gate: what is open.
        pulse: what was last measured.
        routing: version of the routing, and when it was last checked by ``time.monotonic``.
    """

    def __init__(self, gate: Gate, pulse: Pulse, routing: Callable[[], tuple[int, float]]) -> None:
        self._gate, self._pulse, self._routing = gate, pulse, routing
        arm = ("use_case", "variant")
        self._requests = Counter("curtail_requests", "Requests on /v1, by how they ended", (*arm, "outcome", "status"))
        self._tokens = Counter("curtail_tokens", "Tokens of answered requests", (*arm, "kind"))
        self._exits = Counter("curtail_exits", "Why thinking ended", ("use_case", "policy", "reason"))
        self._rejected = Counter("curtail_rejected", "Requests that were not admitted", ("reason",))
        self._first = Histogram(
            "curtail_time_to_first_event_seconds", "From a request's head to the first of its answer", ("use_case",)
        )
        self._total = Histogram(
            "curtail_request_seconds", "From a request's head to the end of its answer", ("use_case", "stream")
        )
        self._queued = Histogram("curtail_queue_seconds", "From admission to the start of decoding", ("use_case",))
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def ended(self, seen: Observation, seconds: float) -> None:
        """Count a request that has ended."""
        outcome = seen.outcome
        self._requests.add((seen.use_case, seen.variant, outcome, str(seen.status)))
        if not seen.admitted:
            if outcome == "refused":
                self._rejected.add((seen.code or "unknown",))
            return
        self._total.observe((seen.use_case, "true" if seen.stream else "false"), seconds)
        if seen.first_event is not None:
            self._first.observe((seen.use_case,), seen.first_event - seen.started)
        record = seen.record
        if record is None:
            return
        for kind in TOKEN_KINDS:
            if count := record[f"{kind}_tokens"]:
                self._tokens.add((seen.use_case, seen.variant, kind), count)
        self._exits.add((seen.use_case, seen.policy, record["exit_reason"] or "none"))
        if (queued := record.get("queue_seconds")) is not None:
            self._queued.observe((seen.use_case,), queued)

    def collect(self) -> Iterator[Metric]:
        """Everything, as Prometheus has it."""
        for family in (self._requests, self._tokens, self._exits, self._rejected):
            yield from family.collect()
        for histogram in (self._first, self._total, self._queued):
            yield from histogram.collect()
        gate, pulse = self._gate, self._pulse
        version, checked_at = self._routing()
        age = time.monotonic() - checked_at
        depths: dict[Labels, float] = {(str(pk),): float(depth) for pk, depth in gate.depths.items()}
        in_flight: dict[Labels, float] = {(str(pk),): float(count) for pk, count in gate.in_flight.items()}
        hosts: dict[Labels, float] = {(str(pk),): float(pk in pulse.hosted) for pk in pulse.wanted}
        by_checkpoint = ("checkpoint",)
        yield gauge("curtail_queue_depth", "Requests that wait or are decoded, of all gateways", by_checkpoint, depths)
        yield gauge("curtail_in_flight", "Admitted requests of this gateway", by_checkpoint, in_flight)
        yield gauge("curtail_engine_host_up", "Whether an engine host serves a checkpoint", by_checkpoint, hosts)
        for name, text, value in (
            ("curtail_open_requests", "Requests that are open on /v1", gate.open_requests),
            ("curtail_draining", "Whether this gateway is shutting down", gate.draining),
            ("curtail_routing_version", "Version of the routing in use", version),
            ("curtail_routing_age_seconds", "Since the routing was last found to be the newest", age),
            ("curtail_ledger_backlog", "Ledger entries that are not stored yet", pulse.ledger),
            ("curtail_ledger_dead_letters", "Ledger entries that could not be stored", pulse.dead_letters),
        ):
            yield gauge(name, text, (), {(): float(value)})

    def exposition(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self._registry)
