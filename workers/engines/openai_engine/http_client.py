"""HTTP/1.1 to one server: a pool of kept-alive connections and no more than a stream of completions needs.

Every request of a gateway passes here, and general clients cost several times what the rest of the gateway does. No
redirects (one would take the prompt, and the key, to an address that nobody configured), no proxies, no cookies, no
content coding. The parser is httptools, which is llhttp.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from typing import cast
from urllib.parse import urlsplit

import httptools

# A reader that falls so far behind lets the server wait.
_HIGH_WATER_BYTES = 1 << 18
# Servers close idle connections after 5 to 75 s; one that they have just closed costs a second try.
_IDLE_SECONDS = 30.0
# For the end of an answer of which all that matters has come.
_END_SECONDS = 1.0


class Unreachable(Exception):
    """No connection could be made, or it broke before the first byte of an answer."""


class Cut(Exception):
    """The connection broke within an answer, or what came was no HTTP."""


class Silent(Exception):
    """Nothing came for too long."""


class Leash:
    """Lets somebody else end an exchange while it is waited for.

    Attributes:
        pulled: whether somebody has.
    """

    def __init__(self) -> None:
        self.pulled = False
        self._connection: _Connection | None = None

    def hold(self, connection: _Connection) -> None:
        """The exchange goes over this connection."""
        self._connection = connection
        if self.pulled:
            connection.abort()

    def pull(self) -> None:
        """End the exchange: whoever waits for it gets Unreachable or Cut."""
        self.pulled = True
        if self._connection is not None:
            self._connection.abort()


class HttpClient:
    """Requests to one server.

    Args:
        base_url: scheme, host, port and the path before the requests' own.
        headers: sent with every request.
        connect_seconds: limit on connecting.
        silence_seconds: limit on waiting for the next byte.
    """

    def __init__(
        self, base_url: str, headers: Mapping[str, str], *, connect_seconds: float, silence_seconds: float
    ) -> None:
        parts = urlsplit(base_url)
        self._host = parts.hostname or ""
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._path = parts.path.rstrip("/")
        fields = {"host": parts.netloc.rpartition("@")[2], "content-type": "application/json", **headers}
        self._head = "".join(f"{name}: {value}\r\n" for name, value in fields.items()).encode("latin-1")
        self._connect_seconds = connect_seconds
        self._silence_seconds = silence_seconds
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._is_closed = False

    async def post(self, path: str, body: bytes, leash: Leash | None = None) -> Response:
        """Send a request and wait for the head of its answer.

        Args:
            path: behind the base URL's.
            body: JSON.
            leash: of the exchange; to be forgotten when its answer has ended.

        Raises:
            Unreachable: nothing of an answer came.
            Cut: what came was no HTTP.
            Silent: nothing came for too long.
        """
        head = b"POST %s HTTP/1.1\r\ncontent-length: %d\r\n%s\r\n" % (
            (self._path + path).encode("ascii"),
            len(body),
            self._head,
        )
        while (connection := self._take()) is not None:
            # The server may have closed it just now, before it saw the request: that is not the request's fault.
            try:
                return await self._ask(connection, head + body, leash)
            except Unreachable:
                if leash is not None and leash.pulled:
                    raise
        return await self._ask(await self._connect(), head + body, leash)

    async def close(self) -> None:
        """Close all connections; answers under way are cut."""
        self._is_closed = True
        for connection in list(self._open):
            connection.abort()

    async def _ask(self, connection: _Connection, request: bytes, leash: Leash | None) -> Response:
        if leash is not None:
            leash.hold(connection)
        try:
            status = await connection.send(request, self._silence_seconds)
        except BaseException:
            connection.abort()
            raise
        return Response(self, connection, status, self._silence_seconds)

    def _take(self) -> _Connection | None:
        oldest = asyncio.get_running_loop().time() - _IDLE_SECONDS
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable and connection.idle_since > oldest:
                return connection
            connection.abort()
        return None

    async def _connect(self) -> _Connection:
        if self._is_closed:
            raise Unreachable("the client is closed")
        loop = asyncio.get_running_loop()
        connecting = loop.create_connection(lambda: _Connection(self._open), self._host, self._port, ssl=self._tls)
        try:
            async with asyncio.timeout(self._connect_seconds):
                _, connection = await connecting
        except (OSError, TimeoutError) as error:
            raise Unreachable(str(error)) from error
        return connection

    def give_back(self, connection: _Connection) -> None:
        """Keep a connection whose answer was read to its end, if the server does too."""
        if connection.is_usable and not self._is_closed:
            connection.idle_since = asyncio.get_running_loop().time()
            self._idle.append(connection)
        else:
            connection.abort()


class Response:
    """The answer to one request. It is read to its end or closed.

    Attributes:
        status: of HTTP.
    """

    def __init__(self, client: HttpClient, connection: _Connection, status: int, silence_seconds: float) -> None:
        self.status = status
        self._client = client
        self._connection: _Connection | None = connection
        self._silence_seconds = silence_seconds

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises Cut or Silent."""
        connection = self._connection
        if connection is None:
            return
        while True:
            piece = await connection.receive(self._silence_seconds)
            if not piece:
                self._connection = None
                self._client.give_back(connection)
                return
            yield piece

    async def read(self, limit: int) -> bytes:
        """The body, cut behind ``limit`` bytes. Raises Cut or Silent."""
        found: list[bytes] = []
        size = 0
        async for piece in self.pieces():
            found.append(piece)
            size += len(piece)
            if size > limit:
                self.close()
                break
        return b"".join(found)[:limit]

    def finish(self) -> None:
        """All that matters has been read: keep the connection as soon as the answer has ended, which is at once."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.when_complete(lambda: self._client.give_back(connection), _END_SECONDS)

    def close(self) -> None:
        """Close the connection unless the answer was read to its end: the server is to stop."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()


class _Connection(asyncio.Protocol):
    """One connection; one answer at a time."""

    def __init__(self, connections: set[_Connection]) -> None:
        self.idle_since = 0.0
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._waiting_bytes = 0
        self._status = 0
        self._has_head = self._is_complete = self._framed = False
        self._keeps_alive = True
        self._is_paused = False
        self._failure: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._then: Callable[[], None] | None = None
        self._then_timer: asyncio.TimerHandle | None = None

    @property
    def is_usable(self) -> bool:
        """Whether another request may be sent."""
        return self._failure is None and self._keeps_alive and self._transport is not None

    async def send(self, request: bytes, seconds: float) -> int:
        """Send a request; the status of its answer."""
        if self._failure is not None or self._transport is None:
            raise Unreachable("the connection is closed")
        self._parser = httptools.HttpResponseParser(self)
        self._has_head = self._is_complete = False
        self._transport.write(request)
        while not self._has_head:
            await self._wait(seconds)
        return self._status

    async def receive(self, seconds: float) -> bytes:
        """What has come of the body, at least one byte; empty at its end."""
        while not self._body:
            if self._is_complete:
                return b""
            await self._wait(seconds)
        piece = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        self._waiting_bytes = 0
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            self._transport.resume_reading()
        return piece

    def when_complete(self, then: Callable[[], None], seconds: float) -> None:
        """Call ``then`` at the end of the answer, whose rest nobody wants; abort if it does not come."""
        self._body.clear()
        if self._is_complete or self._failure is not None:
            then()
            return
        self._then = then
        self._then_timer = asyncio.get_running_loop().call_later(seconds, self.abort)

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    async def _wait(self, seconds: float) -> None:
        """Returns when something has come; raises what went wrong."""
        if self._failure is not None:
            raise self._failure
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        timer = loop.call_later(seconds, self._fall_silent)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None

    def _fall_silent(self) -> None:
        self._fail(Silent("nothing came for too long"))

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, failure: Exception) -> None:
        if self._failure is None:
            self._failure = failure
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(self._failure)

    # -- asyncio's and the parser's calls ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        if self._is_complete:  # nobody asked for it
            self._keeps_alive = False
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(Cut(f"no HTTP: {error}"))
            self.abort()
            return
        if self._waiting_bytes > _HIGH_WATER_BYTES and not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self._connections.discard(self)
        self._transport = None
        self._settle()
        if self._has_head and not self._is_complete and error is None and not self._framed:
            # Neither a length nor chunks were announced: the end of the connection is the body's.
            self._is_complete, self._keeps_alive = True, False
            self._wake()
            return
        self._fail(Cut("the connection broke") if self._has_head else Unreachable("the connection broke"))

    def on_message_begin(self) -> None:
        self._framed = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self._framed = self._framed or name.lower() in (b"content-length", b"transfer-encoding")

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        self._keeps_alive = self._parser.should_keep_alive()
        self._has_head = self._status >= 200  # others are only on the way to the answer

    def on_body(self, body: bytes) -> None:
        self._body.append(body)
        self._waiting_bytes += len(body)

    def on_message_complete(self) -> None:
        self._is_complete = self._has_head
        self._settle()

    def _settle(self) -> None:
        """The answer whose end was waited for has ended, or its connection has."""
        if self._then is not None and self._then_timer is not None:
            self._then_timer.cancel()
            then, self._then = self._then, None
            self._body.clear()
            then()
