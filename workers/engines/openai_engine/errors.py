"""What went wrong at a server, as an error that a client may read: no key, no address. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from experiments.remote_server import RemoteServer
from workers.engines.base import EngineError

MAX_MESSAGE = 300
# Statuses by which a server says that the request itself is at fault.
_INVALID = frozenset({400, 404, 422})
_CODES = {401: "upstream_refused", 403: "upstream_refused", 408: "timeout", 429: "overloaded", 503: "overloaded"}
_URL = re.compile(r"\w+://[^\s\"'<>)\]]+")
_KEY = re.compile(r"\b(?:sk|hf|Bearer)[-_ ][\w\-*.]{4,}")


def error_of_status(server: RemoteServer, status: int, body: bytes, key: str | None) -> EngineError:
    """The error that an answer with another status than 200 stands for."""
    try:
        said = json.loads(body)
    except ValueError:
        said = None
    return _error(server, status, said if isinstance(said, Mapping) else {}, key)


def error_of_event(server: RemoteServer, event: Mapping[str, Any], key: str | None) -> EngineError:
    """The error that an event within a stream stands for."""
    error = event.get("error")
    status = error.get("code") if isinstance(error, Mapping) else None
    return _error(server, status if isinstance(status, int) else 500, event, key)


def _error(server: RemoteServer, status: int, said: Mapping[str, Any], key: str | None) -> EngineError:
    # OpenAI's form is {"error": {"message": ...}}; some servers leave the outer object out.
    error = said.get("error", said)
    message = error.get("message", "") if isinstance(error, Mapping) else error
    code = str(error.get("code") or "") if isinstance(error, Mapping) else ""
    if status not in _INVALID:
        # What a server says of its own troubles or of our key is for its operator.
        code = _CODES.get(status, "upstream_error")
        return EngineError(f"the model's server failed (status {status})", code=code)
    text = fit_for_clients(server, str(message), key)
    too_long = code == "context_length_exceeded" or "context length" in text
    return EngineError(
        f"the model's server refuses the request: {text}" if text else "the model's server refuses the request",
        code="context_length_exceeded" if too_long else "invalid_request",
        invalid_request=True,
    )


def fit_for_clients(server: RemoteServer, message: str, key: str | None) -> str:
    """A server's own words without addresses and keys, at most MAX_MESSAGE characters."""
    text = _KEY.sub("[removed]", _URL.sub("[removed]", message))
    parts = urlsplit(server.base_url)
    for secret in (key, parts.netloc, parts.hostname):
        if secret:
            text = text.replace(secret, "[removed]")
    return " ".join(text.split())[:MAX_MESSAGE]
