"""HTTP to one remote server: requests out, the events of its streams in."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Any

import orjson

from experiments.remote_server import RemoteServer
from workers.engines.base import EngineError
from workers.engines.openai_engine.errors import error_of_event, error_of_status
from workers.engines.openai_engine.http_client import Cut, HttpClient, Leash, Response, Silent, Unreachable
from workers.engines.openai_engine.sse import MAX_EVENT_BYTES, EventReader

logger = logging.getLogger(__name__)

# Nothing has been decoded for the request yet: another try costs nobody anything.
_RETRIED = frozenset({429, 502, 503, 504})
_FIRST_PAUSE_SECONDS = 0.2
_MAX_ERROR_BYTES = 1 << 16


class Client:
    """A connection pool to one server. Made inside the event loop that uses it.

    Args:
        server: the server.
        key: its API key, or None.
    """

    def __init__(self, server: RemoteServer, key: str | None) -> None:
        self._server = server
        self._key = key
        headers = {"accept": "text/event-stream, application/json"} | (
            {"authorization": f"Bearer {key}"} if key else {}
        )
        # Waiting for room is the engine's affair: here every request gets its connection at once.
        self._http = HttpClient(
            server.base_url, headers, connect_seconds=server.connect_seconds, silence_seconds=server.silence_seconds
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._http.close()

    async def events(
        self, path: str, body: Mapping[str, Any], leash: Leash | None = None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Ask for a stream and yield its events. Closing the iterator closes the connection, which stops the decoding.

        Args:
            path: behind the base URL.
            body: the request.
            leash: by which the exchange can be ended.

        Raises:
            EngineError: the server could not be reached, refused, kept silent or sent something else.
        """
        response = await self._open(path, body, leash)
        with _reading(response):
            async with aclosing(self._read(response)) as found:
                async for event in found:
                    yield event

    async def whole(self, path: str, body: Mapping[str, Any], leash: Leash | None = None) -> dict[str, Any]:
        """Ask for an answer in one piece, an object with a list of ``choices``; EngineError as :meth:`events`."""
        response = await self._open(path, body, leash)
        with _reading(response):
            said = await response.read(MAX_EVENT_BYTES)
        return self._checked(_event(said))

    async def _open(self, path: str, body: Mapping[str, Any], leash: Leash | None) -> Response:
        pause = _FIRST_PAUSE_SECONDS
        for left in range(self._server.retries, -1, -1):
            try:
                return await self._post(path, body, leash)
            except _Retry as retry:
                if not left or (leash is not None and leash.pulled):
                    raise retry.error from None
                logger.warning("%s of %s: trying again: %s", path, self._server.model, retry.error)
            await asyncio.sleep(pause)
            pause *= 2
        raise AssertionError("unreachable")

    async def _post(self, path: str, body: Mapping[str, Any], leash: Leash | None) -> Response:
        try:
            response = await self._http.post(path, orjson.dumps(body), leash)
        except Silent as error:
            raise _silent() from error
        except (Unreachable, Cut) as error:
            raise _Retry(EngineError("the model's server cannot be reached", code="unavailable")) from error
        if response.status == 200:
            return response
        try:
            said = await response.read(_MAX_ERROR_BYTES)
        except (Silent, Cut):
            said = b""
        finally:
            response.close()
        failed = error_of_status(self._server, response.status, said, self._key)
        # Not its words: they may quote the prompt.
        logger.warning("%s of %s: status %d, %s", path, self._server.model, response.status, failed.code)
        raise _Retry(failed) if response.status in _RETRIED else failed

    async def _read(self, response: Response) -> AsyncGenerator[dict[str, Any], None]:
        reader = EventReader()
        ended = False
        async for piece in response.pieces():
            try:
                found = reader.feed(piece)
            except ValueError as error:
                raise _malformed() from error
            for data in found:
                if data == "[DONE]":
                    if not ended:
                        raise _cut()
                    response.finish()
                    return
                event = self._checked(_event(data))
                ended = ended or any(choice.get("finish_reason") for choice in event["choices"])
                yield event
        if not ended:
            raise _cut()

    def _checked(self, event: dict[str, Any]) -> dict[str, Any]:
        """An event, unless it tells an error."""
        if not event.get("error"):
            return event
        failed = error_of_event(self._server, event, self._key)
        logger.warning("%s failed in its answer: %s", self._server.model, failed.code)
        raise failed


@contextmanager
def _reading(response: Response) -> Iterator[None]:
    """What may go wrong while an answer is read, as errors of the engine; then it is closed."""
    try:
        yield
    except Silent as error:
        raise _silent() from error
    except Cut as error:
        raise _cut() from error
    finally:
        response.close()


class _Retry(Exception):
    """Nothing came back yet; the error if it stays so."""

    def __init__(self, error: EngineError) -> None:
        super().__init__(str(error))
        self.error = error


def _event(data: str | bytes) -> dict[str, Any]:
    """An event with a list of ``choices``, or an ``error``."""
    try:
        event = orjson.loads(data)
    except ValueError as error:
        raise _malformed() from error
    if not isinstance(event, dict):
        raise _malformed()
    if event.get("error"):
        return event
    choices = event.setdefault("choices", [])
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise _malformed()
    return event


def _silent() -> EngineError:
    return EngineError("the model's server kept silent for too long", code="timeout")


def _malformed() -> EngineError:
    return EngineError("the model's server sent something else than a stream of completions", code="upstream_protocol")


def _cut() -> EngineError:
    return EngineError("the model's server ended its stream in the middle", code="upstream_cut")
