"""Serving shadow runs of one checkpoint: beside its requests, and only as long as those leave room."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import redis.exceptions

from experiments import wire
from experiments.asyncio_tasks import end_tasks
from experiments.policies import policy_from_spec
from workers.engines.base import Engine, EngineError, Finished, FinishReason, GenerationRequest, GenerationResult

logger = logging.getLogger(__name__)

SHADOW_GROUP = "engine-hosts"
MAX_DELIVERIES = 3
# A run that was put back or whose host died is taken again after so long.
RETRY_AFTER_SECONDS = 30.0
_IDLE_SECONDS = 0.5


class ShadowServer:
    """Reads the shadow stream of a checkpoint and feeds the same engine, with the lowest priority.

    A run is acknowledged when its record has been written. One that has to make way stays unacknowledged and is
    taken again later.

    Args:
        redis: asynchronous client.
        engine: a started engine.
        checkpoint_id: the checkpoint.
        consumer: this host's name in the consumer group.
        is_idle: whether the checkpoint's requests leave room now.
    """

    def __init__(
        self, redis: Any, engine: Engine, checkpoint_id: int, consumer: str, is_idle: Callable[[], bool]
    ) -> None:
        self._redis = redis
        self._engine = engine
        self._stream = wire.shadow_stream(checkpoint_id)
        self._consumer = consumer
        self._is_idle = is_idle
        self._limit = max(1, engine.max_concurrency // 4)
        self._running: dict[str, asyncio.Task[None]] = {}

    @property
    def running(self) -> int:
        """Shadow runs in the engine."""
        return len(self._running)

    def make_way(self) -> None:
        """A request needs the place: the newest run is put back."""
        if self._running:
            self._engine.cancel(next(reversed(self._running)))

    async def run(self) -> None:
        """Take runs until cancelled."""
        try:
            await self._make_group()
            while True:
                try:
                    await self._take_some()
                except redis.exceptions.RedisError as error:
                    logger.warning("reading %s failed (%s); trying again", self._stream, error)
                    await asyncio.sleep(_IDLE_SECONDS)
                    if "NOGROUP" in str(error):
                        await self._make_group()
        finally:
            await end_tasks(self._running.values())

    async def _make_group(self) -> None:
        try:
            await self._redis.xgroup_create(self._stream, SHADOW_GROUP, id="0", mkstream=True)
        except redis.exceptions.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    async def _take_some(self) -> None:
        free = self._limit - len(self._running)
        if free <= 0 or not self._is_idle():
            await asyncio.sleep(_IDLE_SECONDS)
            return
        _, entries, *_ = await self._redis.xautoclaim(
            self._stream, SHADOW_GROUP, self._consumer, min_idle_time=int(RETRY_AFTER_SECONDS * 1000), count=free
        )
        if not entries:
            block = int(_IDLE_SECONDS * 1000)
            answer = await self._redis.xreadgroup(
                SHADOW_GROUP, self._consumer, {self._stream: ">"}, count=free, block=block
            )
            entries = answer[0][1] if answer else []
        for entry_id, fields in entries:
            if fields:
                await self._start(entry_id, wire.ShadowRequest.decode(fields[wire.PAYLOAD]))

    async def _start(self, entry_id: bytes, request: wire.ShadowRequest) -> None:
        if request.id in self._running:
            return
        pending = await self._redis.xpending_range(self._stream, SHADOW_GROUP, entry_id, entry_id, 1)
        if request.deadline_at <= time.time():
            await self._write(entry_id, wire.ShadowRecord(request.id, time.time(), error="too old"))
        elif pending and pending[0]["times_delivered"] > MAX_DELIVERIES:
            error = f"gave up after {MAX_DELIVERIES} deliveries"
            await self._write(entry_id, wire.ShadowRecord(request.id, time.time(), error=error))
        else:
            task = asyncio.create_task(self._serve(entry_id, request))
            self._running[request.id] = task
            task.add_done_callback(lambda _: self._running.pop(request.id, None))

    async def _serve(self, entry_id: bytes, request: wire.ShadowRequest) -> None:
        try:
            result = await self._generate(request)
        except (EngineError, ValueError) as error:
            await self._write(entry_id, wire.ShadowRecord(request.id, time.time(), error=str(error)))
            return
        if result.finish_reason is FinishReason.CANCELLED:
            return  # it made way, or the host stops: not acknowledged, so it comes again
        await self._write(entry_id, _record(request, result))

    async def _generate(self, request: wire.ShadowRequest) -> GenerationResult:
        generation = GenerationRequest(
            id=request.id,
            messages=request.messages,
            policy=policy_from_spec(request.policy),
            forced_thinking=request.thinking,
            forced_end=request.ended,
        )
        async for event in self._engine.generate(generation):
            if isinstance(event, Finished):
                return event.result
        raise EngineError("the engine ended without a result")

    async def _write(self, entry_id: bytes, record: wire.ShadowRecord) -> None:
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.xadd(wire.LEDGER_STREAM, {wire.KIND: "shadow", wire.PAYLOAD: record.encode()})
            pipe.xack(self._stream, SHADOW_GROUP, entry_id)
            pipe.xdel(self._stream, entry_id)
            await pipe.execute()


def _record(request: wire.ShadowRequest, result: GenerationResult) -> wire.ShadowRecord:
    left, tokens = result.exit, result.tokens
    return wire.ShadowRecord(
        id=request.id,
        completed_at=time.time(),
        answer=result.answer,
        exit_reason=left.reason.value if left else "",
        decision_step=left.decision_step if left else None,
        thinking_tokens=tokens.thinking,
        answer_tokens=tokens.answer,
        probe_tokens=tokens.probe,
        overrun_tokens=tokens.overrun,
        forced_tokens=tokens.forced,
    )
