"""The logging configuration of every process: lines for people, or JSON with the id of the request at hand."""

from __future__ import annotations

import sys
from collections.abc import MutableMapping
from typing import Any


def configuration(form: str, level: str) -> dict[str, Any]:
    """Django's LOGGING.

    Args:
        form: console or json.
        level: of everything.
    """
    formatter: dict[str, Any] = {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}
    if form == "json":
        formatter = {"()": json_formatter}
    loggers = {"django": {"handlers": [], "level": level, "propagate": True}}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": formatter},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"handlers": ["stderr"], "level": level},
        "loggers": loggers,
    }


def json_formatter() -> Any:
    """A formatter that makes one JSON object of each record, an exception included."""
    import orjson
    import structlog

    processors = structlog.processors
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            processors.TimeStamper(fmt="iso", utc=True),
            _add_request_id,
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            processors.format_exc_info,
            processors.JSONRenderer(serializer=lambda data, **_: orjson.dumps(data, default=str).decode()),
        ],
    )


def _add_request_id(logger: Any, method: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Name the request that a gateway is serving here; other processes serve none and need not load it."""
    observing = sys.modules.get("experiments.gateway.observing")
    seen = observing.current() if observing is not None else None
    if seen is not None:
        fields["request_id"] = seen.own_id()
    return fields
