"""What the gateway takes in at once, and what it says to the rest."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from experiments.gateway.admission import Admitted
from experiments.gateway.chat_request import ChatRequest
from experiments.gateway.errors import ApiError, invalid
from experiments.gateway.http import CLOSE, body_too_large
from experiments.gateway.observing import Observation

# One place in so many has to be free again before a refused client is asked back.
_SHARE_TO_WORK_OFF = 10
_LONGEST_WAIT_SECONDS = 60
_UNKNOWN_WAIT_SECONDS = 5
_DRAINING_WAIT_SECONDS = 5
_LOOK_FOR_STALLED_SECONDS = 0.5
# Weight of the newest measurement in the completion rate.
_NEWEST = 0.2


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds; settings of the same names set them.

    Attributes:
        max_queue: requests per checkpoint that wait or are being decoded, of all gateways.
        max_body_bytes: of a request's body.
        max_prompt_characters: of all its messages.
        max_concurrency_per_key: admitted requests of one API key, in this process.
        max_open_requests: requests of any kind on /v1, in this process.
        body_timeout_seconds: for the whole body, and past a request's deadline for its client to take the answer.
    """

    max_queue: int = 1024
    max_body_bytes: int = 1 << 20
    max_prompt_characters: int = 500_000
    max_concurrency_per_key: int = 1024
    max_open_requests: int = 4096
    body_timeout_seconds: float = 30.0


@dataclass(slots=True)
class _Queue:
    """One checkpoint's queue.

    Attributes:
        in_flight: requests of this process.
        measured: requests of all processes when last measured.
        in_flight_then: ``in_flight`` at that time.
        ended: of this process, since then.
        rate: requests of this process that end per second.
    """

    in_flight: int = 0
    measured: int = 0
    in_flight_then: int = 0
    ended: int = 0
    rate: float = 0.0

    @property
    def depth(self) -> int:
        """Requests that wait or are decoded: the last measurement, and what this process did since."""
        return max(self.in_flight, self.measured + self.in_flight - self.in_flight_then)


@dataclass(slots=True)
class Gate:
    """Counts what is open and refuses what is too much, before anything is written.

    Args:
        limits: the bounds.
    """

    limits: Limits
    draining: bool = False
    _per_key: Counter[str] = field(default_factory=Counter)
    _open: set[Observation] = field(default_factory=set)
    _queues: dict[int, _Queue] = field(default_factory=dict)

    @property
    def open_requests(self) -> int:
        """Requests that are open on /v1."""
        return len(self._open)

    @contextmanager
    def open(self, seen: Observation) -> Iterator[None]:
        """One open request, by what its head says.

        Raises:
            ApiError: 503 while draining, 429 when too many are open, 413 when its body is declared too large.
        """
        limits = self.limits
        if self.draining:
            headers = {"retry-after": str(_DRAINING_WAIT_SECONDS), **CLOSE}
            raise ApiError(503, "this gateway is shutting down; ask again", "draining", headers=headers)
        if self.open_requests >= limits.max_open_requests:
            message = f"this gateway serves at most {limits.max_open_requests} requests at once"
            raise ApiError(429, message, "overloaded", headers={"retry-after": "1", **CLOSE})
        if seen.content_length is not None and seen.content_length > limits.max_body_bytes:
            raise body_too_large(limits.max_body_bytes, seen.content_length)
        seen.give_up_at = seen.began_at + limits.body_timeout_seconds
        self._open.add(seen)
        try:
            yield
        finally:
            self._open.discard(seen)

    @contextmanager
    def admit(self, seen: Observation | None, admitted: Admitted, request: ChatRequest) -> Iterator[None]:
        """One admitted request, from before it is recorded until its client is served.

        Raises:
            ApiError: 400 for a prompt too long, 429 when its key has too many open or its checkpoint's queue is full.
        """
        seen = seen or Observation(0.0, 0.0)
        key = seen.key
        queue = self._queues.setdefault(admitted.assignment.arm.checkpoint_id, _Queue())
        self._refuse_too_much(key, queue, request)
        _describe(seen, admitted, request)
        seen.give_up_at = admitted.deadline_at + self.limits.body_timeout_seconds
        self._per_key[key] += 1
        queue.in_flight += 1
        try:
            yield
        finally:
            queue.in_flight -= 1
            queue.ended += 1
            self._per_key[key] -= 1
            if not self._per_key[key]:
                del self._per_key[key]

    def _refuse_too_much(self, key: str, queue: _Queue, request: ChatRequest) -> None:
        limits = self.limits
        if (characters := request.prompt_characters) > limits.max_prompt_characters:
            message = f"messages must have at most {limits.max_prompt_characters} characters in all, got {characters}"
            raise invalid("messages", message, "context_length_exceeded")
        if self._per_key[key] >= limits.max_concurrency_per_key:
            message = f"at most {limits.max_concurrency_per_key} requests of one API key are served at once"
            raise ApiError(429, message, "concurrency_limit_exceeded", headers={"retry-after": "1"})
        if queue.depth >= limits.max_queue:
            message = f"{queue.depth} requests wait for this model, the bound is {limits.max_queue}; ask again later"
            raise ApiError(429, message, "queue_full", headers={"retry-after": str(self._wait_seconds(queue))})

    def _wait_seconds(self, queue: _Queue) -> int:
        """Seconds until a share of the queue is worked off, at the rate of the last seconds."""
        if queue.rate <= 0:
            return _UNKNOWN_WAIT_SECONDS
        seconds = self.limits.max_queue / _SHARE_TO_WORK_OFF / queue.rate
        return max(1, min(_LONGEST_WAIT_SECONDS, math.ceil(seconds)))

    async def cut_stalled_forever(self) -> None:
        """End requests whose clients hold their connection open and neither send nor read; until cancelled.

        One look at all of them now and then costs less than a timer for each.
        """
        while True:
            await asyncio.sleep(_LOOK_FOR_STALLED_SECONDS)
            now = time.time()
            for seen in [seen for seen in self._open if seen.give_up_at < now and not seen.stalled]:
                seen.stalled = True
                if seen.task is not None:
                    seen.task.cancel()

    def stalled(self, seen: Observation) -> ApiError | None:
        """What a request that was cut is told: nothing when it has been admitted, for its client does not read."""
        if seen.admitted:
            return None
        text = f"the body did not arrive within {self.limits.body_timeout_seconds:g} seconds"
        return ApiError(408, text, "request_timeout", headers=CLOSE)

    async def emptied(self, seconds: float) -> bool:
        """Wait so long until nothing is open; whether that is so."""
        until = time.monotonic() + seconds
        while self.open_requests and time.monotonic() < until:
            await asyncio.sleep(0.02)
        return not self.open_requests

    def measured(self, lengths: dict[int, int], seconds: float) -> None:
        """Take over how long the checkpoints' request streams are.

        Args:
            lengths: by checkpoint id.
            seconds: since the last time.
        """
        for checkpoint_id, length in lengths.items():
            queue = self._queues.setdefault(checkpoint_id, _Queue())
            queue.measured, queue.in_flight_then = length, queue.in_flight
            queue.rate += _NEWEST * (queue.ended / seconds - queue.rate)
            queue.ended = 0
        for gone in [pk for pk, queue in self._queues.items() if pk not in lengths and not queue.in_flight]:
            del self._queues[gone]

    @property
    def depths(self) -> dict[int, int]:
        """Requests that wait or are decoded, by checkpoint id."""
        return {pk: queue.depth for pk, queue in self._queues.items()}

    @property
    def in_flight(self) -> dict[int, int]:
        """Admitted requests of this process, by checkpoint id."""
        return {pk: queue.in_flight for pk, queue in self._queues.items()}


def _describe(seen: Observation, admitted: Admitted, request: ChatRequest) -> None:
    arm = admitted.assignment.arm
    seen.id, seen.admitted, seen.stream = admitted.id, True, request.stream
    seen.use_case, seen.model = admitted.route.slug, admitted.route.model
    seen.variant = arm.variant_key or "" if admitted.assignment.experiment else ""
    seen.policy = str(arm.policy["name"])
