"""A constant load of conversations, half of them streamed, and a note of what each client saw."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from benchmarks.durability.register import MODEL

CONVERSATIONS = 40
CLIENT_SECONDS = 60.0


@dataclass(slots=True)
class Seen:
    """What one client saw.

    Attributes:
        conversation: its unit.
        began, ended: by ``time.monotonic``.
        outcome: "answered", "error" (in OpenAI's form), "broken" (the connection), or "malformed".
        code: of the error.
        text: thinking and answer, as they came.
    """

    conversation: str
    stream: bool
    began: float
    ended: float = 0.0
    outcome: str = "broken"
    id: str = ""
    variant: str = ""
    status: int = 0
    code: str = ""
    text: str = ""


@dataclass
class _Clients:
    """Clients of one installation.

    Args:
        url: of the installation.
        token: an API key.
        conversations: units.

    Attributes:
        seen: what each client saw.
    """

    url: str
    token: str
    conversations: int = field(default=CONVERSATIONS, kw_only=True)
    seen: list[Seen] = field(default_factory=list, kw_only=True)

    def outcomes(self) -> Counter[str]:
        """How many ended how, errors by code."""
        return Counter(seen.code or seen.outcome for seen in self.seen)

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=CLIENT_SECONDS),
            headers={"authorization": f"Bearer {self.token}"},
        )

    async def _ask(self, session: aiohttp.ClientSession, number: int) -> None:
        seen = Seen(f"c{number % self.conversations}", number % 2 == 0, time.monotonic())
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": f"question {number}"}],
            "stream": seen.stream,
            "metadata": {"conversation_id": seen.conversation},
            "user": f"u{number % self.conversations}",
        }
        try:
            async with session.post(f"{self.url}/v1/chat/completions", json=body) as response:
                await _read(response, seen)
        except (aiohttp.ClientError, OSError, TimeoutError):
            seen.outcome = "broken"
        except (ValueError, KeyError, TypeError):
            seen.outcome = "malformed"
        seen.ended = time.monotonic()
        self.seen.append(seen)


@dataclass
class Load(_Clients):
    """Sends so many requests a second, whether or not they are answered, until it is stopped.

    Args:
        rate: requests per second.
    """

    rate: float
    _stopping: bool = False

    async def run(self) -> None:
        """Send until stopped; returns when every client has seen its end."""
        tasks: set[asyncio.Task[None]] = set()
        async with self._session() as session:
            began = time.monotonic()
            for number in itertools.count():
                if self._stopping:
                    break
                tasks.add(task := asyncio.create_task(self._ask(session, number)))
                task.add_done_callback(tasks.discard)
                await asyncio.sleep(max(0.0, began + (number + 1) / self.rate - time.monotonic()))
            if tasks:
                await asyncio.wait(tasks)

    def stop(self) -> None:
        """Send no more."""
        self._stopping = True


@dataclass
class ClosedLoop(_Clients):
    """So many clients that each ask again as soon as they are answered.

    Args:
        clients: how many.
    """

    clients: int

    async def run(self, seconds: float) -> float:
        """Ask for so long; requests answered per second."""
        numbers = itertools.count()
        began = time.monotonic()
        async with self._session() as session:

            async def ask() -> None:
                while time.monotonic() < began + seconds:
                    await self._ask(session, next(numbers))

            await asyncio.gather(*(ask() for _ in range(self.clients)))
        return self.outcomes()["answered"] / (time.monotonic() - began)


async def _read(response: aiohttp.ClientResponse, seen: Seen) -> None:
    seen.status = response.status
    seen.id = response.headers.get("x-request-id", "")
    seen.variant = response.headers.get("x-curtail-variant", "")
    if response.content_type == "text/event-stream":
        await _read_stream(response, seen)
        return
    body = json.loads(await response.read())
    if response.status == 200:
        message = body["choices"][0]["message"]
        seen.text = message["reasoning"] + "|" + message["content"]
        seen.outcome = "answered"
    else:
        _take_error(body, seen)


async def _read_stream(response: aiohttp.ClientResponse, seen: Seen) -> None:
    parts: dict[str, list[str]] = {"reasoning": [], "content": []}
    finished = False
    async for line in response.content:
        if not line.startswith(b"data: "):
            continue
        payload = line[6:].strip()
        if payload == b"[DONE]":
            if finished:
                seen.outcome = "answered"
            break
        body = json.loads(payload)
        if "error" in body:
            _take_error(body, seen)
            return
        for choice in body["choices"]:
            for name, texts in parts.items():
                texts.append(choice["delta"].get(name) or "")
            finished = finished or choice["finish_reason"] is not None
    seen.text = "".join(parts["reasoning"]) + "|" + "".join(parts["content"])


def _take_error(body: dict[str, Any], seen: Seen) -> None:
    """An error in OpenAI's form; KeyError or TypeError for any other."""
    error = body["error"]
    if not (error["message"] and error["type"] and "param" in error):
        raise ValueError(f"not an error of OpenAI's form: {body}")
    seen.outcome, seen.code = "error", error["code"]
