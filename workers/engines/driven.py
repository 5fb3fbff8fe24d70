"""What engines that drive each request by a task of its own have in common: ids, room, events, cancelling."""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from workers.engines.base import Delta, EngineError, Finished, GenerationRequest
from workers.engines.driver import Driver

logger = logging.getLogger(__name__)

Emit = Callable[[Delta | Finished], None]
MakeDriver = Callable[[Emit], Driver]


@dataclass(slots=True)
class _Running:
    """One request in flight."""

    events: asyncio.Queue[Delta | Finished | EngineError] = field(default_factory=asyncio.Queue)
    driver: Driver | None = None
    cancelled: bool = False


class DrivenEngine(ABC):
    """Requests in flight, each with a driver.

    Args:
        max_concurrency: requests decoded at once (branches come on top).
    """

    def __init__(self, max_concurrency: int) -> None:
        self._max_concurrency = max_concurrency
        self._running: dict[str, _Running] = {}
        self._room = asyncio.Semaphore(max_concurrency)

    @property
    def max_concurrency(self) -> int:
        return self._max_concurrency

    @property
    def alive(self) -> bool:
        return True

    @abstractmethod
    def _prepare(self, request: GenerationRequest) -> MakeDriver:
        """What makes the request's driver once there is room; EngineError where it can't be served."""

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Delta | Finished]:
        if request.id in self._running:
            raise in_flight(request)
        make = self._prepare(request)
        running = self._running[request.id] = _Running()
        driving = asyncio.create_task(self._drive(request, make, running))
        try:
            while True:
                event = await running.events.get()
                if isinstance(event, EngineError):
                    raise event
                yield event
                if isinstance(event, Finished):
                    return
        finally:
            driving.cancel()
            # Its id is free, and the decoder has been told, before anybody goes on.
            await asyncio.gather(driving, return_exceptions=True)
            del self._running[request.id]

    def cancel(self, request_id: str) -> None:
        running = self._running.get(request_id)
        if running is not None:
            running.cancelled = True
            if running.driver is not None:
                running.driver.cancel()

    def _fail_all(self) -> None:
        """End everything in flight: the engine is being closed."""
        for running in self._running.values():
            running.events.put_nowait(EngineError("the engine was shut down", code="unavailable"))

    async def _drive(self, request: GenerationRequest, make: MakeDriver, running: _Running) -> None:
        asked = time.monotonic()
        try:
            async with self._room:
                driver = running.driver = make(running.events.put_nowait)
                if running.cancelled:
                    driver.cancel()
                await driver.run(time.monotonic() - asked)
        except EngineError as error:
            running.events.put_nowait(error)
        except Exception as error:
            logger.exception("request %s failed", request.id)
            running.events.put_nowait(EngineError(f"decoding failed: {error}"))


def in_flight(request: GenerationRequest) -> EngineError:
    """The refusal of a request whose id is taken."""
    return EngineError(f"request {request.id} is already being decoded", code="duplicate_request")
