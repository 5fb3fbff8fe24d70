"""What an operator sees of a gateway: /healthz, /readyz, /metrics, one log line and one span per request."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST

from experiments.gateway import dialect
from experiments.gateway.access_log import write_line
from experiments.gateway.dialect import Dialect
from experiments.gateway.errors import ApiError
from experiments.gateway.health import Database, Pulse, checks, report
from experiments.gateway.http import Scope, Send, header, send_bytes, send_json
from experiments.gateway.limits import Gate, Limits
from experiments.gateway.metrics import GatewayMetrics
from experiments.gateway.observing import Observation, begin
from experiments.gateway.replies import Replies
from experiments.gateway.routing_cache import RoutingCache
from experiments.gateway.tracing import end_span, start_span
from experiments.tracing import Tracer

PAGES = ("/healthz", "/readyz", "/metrics")
_NEVER_STORED = {"cache-control": "no-store"}


@dataclass(frozen=True, slots=True)
class Options:
    """How a gateway is run.

    Attributes:
        limits: the bounds.
        dialect: what is chosen where OpenAI's protocol leaves a choice.
        access_logger: a structlog logger for one line per request; None: no lines.
        tracer: for one span per request; None: no spans.
        ask_database: a blocking query for /readyz; None: PostgreSQL is not reported.
        metrics_token: what /metrics wants as bearer token; "": nothing.
    """

    limits: Limits = field(default_factory=Limits)
    dialect: Dialect = dialect.DEFAULT
    access_logger: Any = None
    tracer: Tracer | None = None
    ask_database: Callable[[], object] | None = None
    metrics_token: str = ""


DEFAULTS = Options()


class Operations:
    """Watches one gateway.

    Args:
        options: how it is run.
    """

    def __init__(self, options: Options) -> None:
        self._logger, self._tracer, self._token = options.access_logger, options.tracer, options.metrics_token
        self.gate = Gate(options.limits)
        self.pulse = Pulse(self.gate)
        self._database = Database(options.ask_database) if options.ask_database is not None else None
        self._routing: RoutingCache | None = None
        self._replies: Replies | None = None
        self._metrics = GatewayMetrics(self.gate, self.pulse, self._version)

    def attach(self, routing: RoutingCache, replies: Replies) -> None:
        """The gateway has started with these."""
        self._routing, self._replies = routing, replies

    async def close(self) -> None:
        """Export the spans that are left."""
        if self._tracer is not None:
            await asyncio.to_thread(self._tracer.shut_down)

    def _version(self) -> tuple[int, float]:
        return (self._routing.current.version, self._routing.refreshed_at) if self._routing else (-1, 0.0)

    @contextmanager
    def observed(self, scope: Scope) -> Iterator[Observation]:
        """Observe one request; its end is counted, logged and traced."""
        seen = begin(scope)
        if self._tracer is not None:
            start_span(self._tracer, seen)
        try:
            yield seen
        finally:
            if seen.left and not seen.status:
                seen.status = 499
            seconds = time.perf_counter() - seen.started
            self._metrics.ended(seen, seconds)
            if self._logger is not None:
                write_line(self._logger, seen, seconds)
            if self._tracer is not None:
                end_span(self._tracer, seen)

    async def serve_page(self, scope: Scope, send: Send) -> None:
        """Answer /healthz, /readyz or /metrics."""
        path = scope["path"]
        if scope["method"] not in ("GET", "HEAD"):
            error = ApiError(405, f"{path} takes GET, got {scope['method']}", "method_not_allowed")
            await send_json(send, error.status, error.body(), {"allow": "GET, HEAD"})
        elif path == "/healthz":
            # That it is answered at all says that the event loop turns.
            await send_json(send, 200, {"status": "ok"}, _NEVER_STORED)
        elif path == "/readyz":
            await send_json(send, *await self._readiness(), _NEVER_STORED)
        else:
            await self._send_metrics(scope, send)

    async def _readiness(self) -> tuple[int, dict[str, Any]]:
        if self._routing is None or self._replies is None:
            return 503, {"status": "unavailable", "checks": {}}
        found = checks(self.gate, self._routing, self._replies, self.pulse)
        if self._database is not None:
            found.append(await self._database.check())
        return report(found)

    async def _send_metrics(self, scope: Scope, send: Send) -> None:
        given = (header(scope, b"authorization") or "").removeprefix("Bearer ")
        if self._token and not hmac.compare_digest(given.encode(), self._token.encode()):
            error = ApiError(401, "/metrics needs the token of CURTAIL_METRICS_TOKEN", "invalid_token")
            await send_json(send, error.status, error.body(), {"www-authenticate": "Bearer"})
            return
        await send_bytes(send, 200, CONTENT_TYPE_LATEST, self._metrics.exposition(), _NEVER_STORED)
