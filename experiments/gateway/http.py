"""The few lines of ASGI that the hot path needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import orjson

from experiments.gateway.errors import ApiError
from experiments.gateway.observing import current

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
# Where a request's body was not read to its end, the connection can't carry another one.
CLOSE = {"connection": "close"}


class ClientLeft(Exception):
    """The client closed its connection."""


def header(scope: Scope, name: bytes) -> str | None:
    """One request header by its lower-case name."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value.decode("latin-1"))
    return None


def body_too_large(bound: int, size: int) -> ApiError:
    """A 413 that closes the connection."""
    message = f"the body must have at most {bound} bytes, got {size}"
    return ApiError(413, message, "request_too_large", headers=CLOSE)


class BoundedReceive:
    """``receive`` of one request whose body may not be too large.

    Args:
        receive: the server's.
        max_bytes: of the body.
    """

    def __init__(self, receive: Receive, max_bytes: int) -> None:
        self._receive = receive
        self._max_bytes = max_bytes
        self._size = 0

    async def __call__(self) -> MutableMapping[str, Any]:
        """The next message.

        Raises:
            ApiError: 413 when the body is too large.
        """
        message = await self._receive()
        self._size += len(message.get("body", b""))
        if self._size > self._max_bytes:
            raise body_too_large(self._max_bytes, self._size)
        return message


async def read_body(receive: Receive) -> bytes:
    """The whole body; its bounds are those of :class:`BoundedReceive`.

    Raises:
        ClientLeft: the client went away first.
    """
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def wait_for_disconnect(receive: Receive) -> None:
    """Returns when the client closes its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def send_json(send: Send, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
    """A whole JSON response."""
    await send_bytes(send, status, "application/json", orjson.dumps(body), headers)


async def send_bytes(
    send: Send, status: int, content_type: str, payload: bytes, headers: Mapping[str, str] | None = None
) -> None:
    """A whole response."""
    await _send_start(send, status, content_type, {"content-length": str(len(payload)), **(headers or {})})
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
    seen = current()
    if seen is not None:
        seen.status = status
    pairs = [(b"content-type", content_type.encode())]
    pairs += [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
