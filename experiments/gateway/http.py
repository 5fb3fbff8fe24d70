"""The few lines of ASGI that the hot path needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import orjson

from experiments.gateway.chat_request import MAX_BODY_BYTES
from experiments.gateway.errors import ApiError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class ClientLeft(Exception):
    """The client closed its connection."""


def header(scope: Scope, name: bytes) -> str | None:
    """One request header by its lower-case name."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value.decode("latin-1"))
    return None


async def read_body(receive: Receive) -> bytes:
    """The whole body.

    Raises:
        ApiError: 413 when it is larger than the limit.
        ClientLeft: the client went away first.
    """
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        part = message.get("body", b"")
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise ApiError(413, f"the body must have at most {MAX_BODY_BYTES} bytes", "request_too_large")
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)


async def wait_for_disconnect(receive: Receive) -> None:
    """Returns when the client closes its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def send_json(send: Send, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
    """A whole JSON response."""
    payload = orjson.dumps(body)
    await _send_start(send, status, "application/json", {"content-length": str(len(payload)), **(headers or {})})
    await send({"type": "http.response.body", "body": payload})


class EventStream:
    """A server-sent-events response; its head goes out with the first event."""

    def __init__(self, send: Send, headers: Mapping[str, str]) -> None:
        self._send = send
        self._headers = headers
        self.started = False

    async def event(self, body: Any) -> None:
        """Send one event."""
        await self._write(b"data: " + orjson.dumps(body) + b"\n\n", more=True)

    async def close(self) -> None:
        """Send the end mark and end the response."""
        await self._write(b"data: [DONE]\n\n", more=False)

    async def _write(self, payload: bytes, *, more: bool) -> None:
        if not self.started:
            self.started = True
            headers = {"cache-control": "no-cache", **self._headers}
            await _send_start(self._send, 200, "text/event-stream", headers)
        await self._send({"type": "http.response.body", "body": payload, "more_body": more})


async def _send_start(send: Send, status: int, content_type: str, headers: Mapping[str, str]) -> None:
    pairs = [(b"content-type", content_type.encode())]
    pairs += [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
