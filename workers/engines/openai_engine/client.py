"""HTTP to one remote server: requests out, the events of its streams in."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import aiohttp

from experiments.remote_server import RemoteServer
from workers.engines.base import EngineError
from workers.engines.openai_engine.errors import error_of_event, error_of_status
from workers.engines.openai_engine.sse import EventReader

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
        timeout = aiohttp.ClientTimeout(
            total=None, connect=None, sock_connect=server.connect_seconds, sock_read=server.silence_seconds
        )
        headers = {"Accept": "text/event-stream"} | ({"Authorization": f"Bearer {key}"} if key else {})
        # Waiting for room is the engine's affair: here every request gets its connection at once.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=timeout, headers=headers, trust_env=False
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def events(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Ask for a stream and yield its events. Closing the iterator closes the connection, which stops the decoding.

        Args:
            path: behind the base URL.
            body: the request.

        Raises:
            EngineError: the server could not be reached, refused, kept silent or sent something else.
        """
        response = await self._open(path, body)
        try:
            async with aclosing(self._read(response)) as found:
                async for event in found:
                    yield event
        except TimeoutError as error:
            raise EngineError("the model's server kept silent for too long", code="timeout") from error
        except (aiohttp.ClientError, OSError) as error:
            raise _cut() from error
        finally:
            # Not release(): an answer that is not read to its end must not go on.
            response.close()

    async def _open(self, path: str, body: Mapping[str, Any]) -> aiohttp.ClientResponse:
        pause = _FIRST_PAUSE_SECONDS
        for left in range(self._server.retries, -1, -1):
            try:
                return await self._post(path, body)
            except _Retry as retry:
                if not left:
                    raise retry.error from None
                logger.warning("%s of %s: trying again: %s", path, self._server.model, retry.error)
            await asyncio.sleep(pause)
            pause *= 2
        raise AssertionError("unreachable")

    async def _post(self, path: str, body: Mapping[str, Any]) -> aiohttp.ClientResponse:
        try:
            # A redirect would take the prompt, and the key, to an address that nobody configured.
            response = await self._session.post(self._server.base_url + path, json=body, allow_redirects=False)
        except aiohttp.ConnectionTimeoutError as error:
            raise _Retry(EngineError("the model's server cannot be reached", code="unavailable")) from error
        except TimeoutError as error:
            raise EngineError("the model's server kept silent for too long", code="timeout") from error
        except (aiohttp.ClientError, OSError) as error:
            raise _Retry(EngineError("the model's server cannot be reached", code="unavailable")) from error
        if response.status == 200:
            return response
        try:
            said = await response.content.read(_MAX_ERROR_BYTES)
        except (aiohttp.ClientError, OSError):
            said = b""
        finally:
            response.close()
        logger.warning("%s of %s: status %d: %r", path, self._server.model, response.status, said[:500])
        failed = error_of_status(self._server, response.status, said, self._key)
        raise _Retry(failed) if response.status in _RETRIED else failed

    async def _read(self, response: aiohttp.ClientResponse) -> AsyncGenerator[dict[str, Any], None]:
        reader = EventReader()
        ended = False
        async for piece in response.content.iter_any():
            try:
                found = reader.feed(piece)
            except ValueError as error:
                raise _malformed() from error
            for data in found:
                if data == "[DONE]" and ended:
                    return
                if data == "[DONE]":
                    raise _cut()
                event = _event(data)
                if event.get("error"):
                    logger.warning("%s failed within a stream: %r", self._server.model, event["error"])
                    raise error_of_event(self._server, event, self._key)
                ended = ended or any(choice.get("finish_reason") for choice in event["choices"])
                yield event
        if not ended:
            raise _cut()


class _Retry(Exception):
    """Nothing came back yet; the error if it stays so."""

    def __init__(self, error: EngineError) -> None:
        super().__init__(str(error))
        self.error = error


def _event(data: str) -> dict[str, Any]:
    """An event with a list of ``choices``, or an ``error``."""
    try:
        event = json.loads(data)
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


def _malformed() -> EngineError:
    return EngineError("the model's server sent something else than a stream of completions", code="upstream_protocol")


def _cut() -> EngineError:
    return EngineError("the model's server ended its stream in the middle", code="upstream_cut")
