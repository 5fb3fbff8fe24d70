"""Serving shadow runs of one checkpoint: beside its requests, and only as long as those leave room."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import redis.exceptions

from experiments import wire
from experiments.asyncio_tasks import end_tasks
from experiments.policies import policy_from_spec
from workers.engines.base import (
    Engine,
    EngineError,
    Finished,
    FinishReason,
    GenerationRequest,
    GenerationResult,
    Sampling,
)

logger = logging.getLogger(__name__)

SHADOW_GROUP = "engine-hosts"
MAX_DELIVERIES = 3
# A run whose host has not been heard of for so long is taken over.
RETRY_AFTER_SECONDS = 30.0
_IDLE_SECONDS = 0.5
_CANCELLED = "cancelled"


@dataclass(slots=True, eq=False)
class _Running:
    """A run in the engine, or on its way into it or out of it."""

    request: wire.ShadowRequest
    leaving: bool = False
    task: asyncio.Task[None] = field(init=False)


class ShadowServer:
    """Reads the shadow stream of a checkpoint and feeds the same engine, with the lowest priority.

    A run is acknowledged when its record has been written, kept alive by heartbeats while it is decoded, and taken
    over from a dead host. One that has to make way goes back to the end of the stream: that is no failed delivery.

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
        self._running: dict[bytes, _Running] = {}

    @property
    def running(self) -> int:
        """Shadow runs in the engine that have not been told to leave it."""
        return sum(not run.leaving for run in self._running.values())

    def make_way(self) -> None:
        """A request needs a place: the newest run that is not leaving yet does so."""
        for run in reversed(self._running.values()):
            if not run.leaving:
                run.leaving = True
                self._engine.cancel(run.request.id)
                return

    async def run(self) -> None:
        """Take runs until cancelled."""
        beating = asyncio.create_task(self._beat_forever())
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
            await end_tasks([beating, *(run.task for run in self._running.values())])

    async def _make_group(self) -> None:
        try:
            await self._redis.xgroup_create(self._stream, SHADOW_GROUP, id="0", mkstream=True)
        except redis.exceptions.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    async def _beat_forever(self) -> None:
        while True:
            await asyncio.sleep(RETRY_AFTER_SECONDS / 4)
            try:
                if mine := list(self._running):
                    await self._redis.xclaim(
                        self._stream, SHADOW_GROUP, self._consumer, min_idle_time=0, message_ids=mine, justid=True
                    )
            except redis.exceptions.RedisError as error:
                logger.warning("heartbeat on %s failed: %s", self._stream, error)

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
            if fields and entry_id not in self._running:
                await self._start(entry_id, fields[wire.PAYLOAD])

    async def _start(self, entry_id: bytes, payload: bytes) -> None:
        try:
            request = wire.ShadowRequest.decode(payload)
        except (ValueError, TypeError):
            # It would come back for ever, and nobody waits for it.
            logger.exception("shadow entry %s can't be read; it is dropped", entry_id)
            await self._settle(entry_id)
            return
        pending = await self._redis.xpending_range(self._stream, SHADOW_GROUP, entry_id, entry_id, 1)
        if request.start_by <= time.time():
            await self._settle(entry_id, wire.ShadowRecord(request.id, time.time(), error="too old"))
        elif pending and pending[0]["times_delivered"] > MAX_DELIVERIES:
            error = f"gave up after {MAX_DELIVERIES} deliveries"
            await self._settle(entry_id, wire.ShadowRecord(request.id, time.time(), error=error))
        else:
            run = _Running(request)
            self._running[entry_id] = run
            run.task = asyncio.create_task(self._serve(entry_id, run))
            run.task.add_done_callback(lambda _: self._running.pop(entry_id, None))

    async def _serve(self, entry_id: bytes, run: _Running) -> None:
        request = run.request
        # Told to leave before it began: the engine did not know it yet.
        result = None if run.leaving else await self._outcome(request)
        if result is None or (run.leaving and result == _CANCELLED):
            await self._settle(entry_id, again=request)
        elif isinstance(result, wire.ShadowRecord):
            await self._settle(entry_id, result)

    async def _outcome(self, request: wire.ShadowRequest) -> wire.ShadowRecord | str:
        """The record of a run, or that it was cancelled."""
        try:
            result = await self._generate(request)
        except (EngineError, ValueError) as error:
            return wire.ShadowRecord(request.id, time.time(), error=str(error))
        return _CANCELLED if result.finish_reason is FinishReason.CANCELLED else _record(request, result)

    async def _generate(self, request: wire.ShadowRequest) -> GenerationResult:
        generation = GenerationRequest(
            id=request.id,
            messages=request.messages,
            policy=policy_from_spec(request.policy),
            sampling=Sampling(request.temperature, request.top_p, None, request.max_tokens),
            forced_thinking=request.thinking,
            forced_end=request.ended,
        )
        async for event in self._engine.generate(generation):
            if isinstance(event, Finished):
                return event.result
        raise EngineError("the engine ended without a result")

    async def _settle(
        self, entry_id: bytes, record: wire.ShadowRecord | None = None, again: wire.ShadowRequest | None = None
    ) -> None:
        """Take an entry off the stream, with its record into the ledger or itself to the end, both or neither."""
        async with self._redis.pipeline(transaction=True) as pipe:
            if record is not None:
                pipe.xadd(wire.LEDGER_STREAM, {wire.KIND: "shadow", wire.PAYLOAD: record.encode()})
            if again is not None:
                pipe.xadd(self._stream, {wire.PAYLOAD: again.encode()})
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
