"""One line per request on /v1: JSON or key=value, with ids, counts and times, never a prompt, an answer or a key."""

from __future__ import annotations

import logging
import sys
from typing import Any

import orjson
import structlog

from experiments.gateway.observing import Observation

_TOKENS = ("prompt_tokens", "thinking_tokens", "answer_tokens", "probe_tokens", "overrun_tokens")


def json_logger() -> Any:
    """Straight to standard error: the fastest way, and the same form as the other records of a process."""
    add = structlog.processors.TimeStamper(fmt="iso", utc=True)
    renderer = structlog.processors.JSONRenderer(serializer=lambda data, **_: orjson.dumps(data))
    logger = structlog.wrap_logger(
        structlog.BytesLogger(sys.stderr.buffer),
        processors=[structlog.processors.add_log_level, add, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )
    return logger.bind(logger="curtail.access")


def console_logger() -> Any:
    """Through Python's logging, in the form of the other lines."""
    logger = structlog.wrap_logger(
        logging.getLogger("curtail.access"),
        processors=[structlog.processors.KeyValueRenderer(key_order=["event"], drop_missing=True)],
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    return logger.bind()


def write_line(logger: Any, seen: Observation, seconds: float) -> None:
    """Write the line of a request that has ended."""
    fields: dict[str, Any] = {
        "request_id": seen.own_id(),
        "method": seen.method,
        "path": seen.path,
        "status": seen.status,
        "outcome": seen.outcome,
        "seconds": round(seconds, 6),
    }
    if seen.client_request_id:
        fields["client_request_id"] = seen.client_request_id
    if code := seen.code or (seen.error or {}).get("code"):
        fields["error"] = code
    if seen.admitted:
        fields |= {"use_case": seen.use_case, "variant": seen.variant, "policy": seen.policy, "stream": seen.stream}
        if seen.first_event is not None:
            fields["first_event_seconds"] = round(seen.first_event - seen.started, 6)
    if (record := seen.record) is not None:
        fields |= {name: record[name] for name in _TOKENS}
        fields |= {"exit": record["exit_reason"], "queue_seconds": record.get("queue_seconds")}
    logger.info("request", **fields)
