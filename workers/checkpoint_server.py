"""Serving one checkpoint: its request stream in, tokens and records out."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from typing import Any

import redis.exceptions

from experiments import wire
from experiments.asyncio_tasks import end_tasks
from experiments.policies import policy_from_spec
from workers.engines.base import (
    Delta,
    Engine,
    EngineError,
    FinishReason,
    GenerationRequest,
    GenerationResult,
    Sampling,
)
from workers.outbox import Ending, Outbox
from workers.shadow_server import ShadowServer

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 2.0
DEAD_AFTER_SECONDS = 10.0
MAX_DELIVERIES = 3
_BLOCK_MILLISECONDS = 500
_GONE_AFTER_SECONDS = 0.5


class CheckpointServer:
    """Reads one request stream with a consumer group and feeds an engine.

    A request is acknowledged when it has ended, kept alive by heartbeats while it is decoded, and
    taken over from a dead host unless its client has seen text already (then it ends with an error).

    Args:
        redis: asynchronous client.
        outbox: where replies and records go.
        engine: a started engine.
        checkpoint_id: the checkpoint.
        consumer: this host's name in the consumer group.
    """

    def __init__(self, redis: Any, outbox: Outbox, engine: Engine, checkpoint_id: int, consumer: str) -> None:
        self._redis = redis
        self._outbox = outbox
        self._engine = engine
        self._stream = wire.request_stream(checkpoint_id)
        self._consumer = consumer
        self._serving: dict[bytes, asyncio.Task[None]] = {}
        self._slot_free = asyncio.Event()
        self._timed_out: set[str] = set()
        self._deliveries: dict[str, int] = {}
        self._shadow = ShadowServer(redis, engine, checkpoint_id, consumer, self._leaves_room)

    @property
    def alive(self) -> bool:
        """Whether the engine can go on serving."""
        return self._engine.alive

    async def run(self) -> None:
        """Take requests until cancelled; what is being decoded then goes on (see :meth:`drain`)."""
        await self._make_group()
        work = (self._keep_alive(), self._take_forever(), self._shadow.run())
        parts = [asyncio.create_task(part) for part in work]
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_EXCEPTION)
            for part in done:
                part.result()
        finally:
            await end_tasks(parts)

    async def drain(self, seconds: float) -> None:
        """Wait so long for the requests in flight. Those left over stay unacknowledged, for another host."""
        if self._serving:
            await asyncio.wait(self._serving.values(), timeout=seconds)
        await end_tasks(self._serving.values())
        await self._engine.close()

    def cancel(self, request_id: str) -> None:
        """The client of this request has left."""
        self._engine.cancel(request_id)

    # -- taking requests ---------------------------------------------------------------------------

    async def _make_group(self) -> None:
        try:
            await self._redis.xgroup_create(self._stream, wire.REQUEST_GROUP, id="0", mkstream=True)
        except redis.exceptions.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    async def _take_forever(self) -> None:
        while True:
            free = self._engine.max_concurrency - len(self._serving)
            if free <= 0:
                self._slot_free.clear()
                await self._slot_free.wait()
                continue
            try:
                answer = await self._redis.xreadgroup(
                    wire.REQUEST_GROUP,
                    self._consumer,
                    {self._stream: ">"},
                    count=free,
                    block=_BLOCK_MILLISECONDS,
                )
            except redis.exceptions.RedisError as error:
                logger.warning("reading %s failed (%s); trying again", self._stream, error)
                await asyncio.sleep(_GONE_AFTER_SECONDS)
                if "NOGROUP" in str(error):
                    await self._make_group()
                continue
            for _, entries in answer:
                for entry_id, fields in entries:
                    self._serve(entry_id, fields)

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            try:
                await self._beat()
                await self._take_over()
            except redis.exceptions.RedisError as error:
                logger.warning("heartbeat on %s failed: %s", self._stream, error)

    async def _beat(self) -> None:
        mine = list(self._serving)
        if mine:
            await self._redis.xclaim(
                self._stream,
                wire.REQUEST_GROUP,
                self._consumer,
                min_idle_time=0,
                message_ids=mine,
                justid=True,
            )

    async def _take_over(self) -> None:
        """Claim the requests of hosts that stopped beating."""
        free = self._engine.max_concurrency - len(self._serving)
        if free <= 0:
            return
        _, entries, *_ = await self._redis.xautoclaim(
            self._stream,
            wire.REQUEST_GROUP,
            self._consumer,
            min_idle_time=int(DEAD_AFTER_SECONDS * 1000),
            count=free,
        )
        for entry_id, fields in entries:
            if entry_id in self._serving or not fields:  # an entry that was deleted meanwhile has no fields
                continue
            request = await self._read(entry_id, fields)
            if request is None:
                continue
            pending = await self._redis.xpending_range(self._stream, wire.REQUEST_GROUP, entry_id, entry_id, 1)
            deliveries = pending[0]["times_delivered"] if pending else 1
            if await self._redis.exists(wire.started_key(request.id)):
                self._fail(entry_id, request, "the server that was answering has failed in mid-answer", 502)
            elif deliveries > MAX_DELIVERIES:
                self._fail(entry_id, request, f"gave up after {MAX_DELIVERIES} deliveries", 500)
            else:
                self._deliveries[request.id] = deliveries
                self._serve(entry_id, fields)

    async def _read(self, entry_id: bytes, fields: dict[bytes, bytes]) -> wire.ServeRequest | None:
        """The request of an entry; None for one that can't be read, which is dropped: it would come back for ever.

        Its gateway answers with a timeout.
        """
        try:
            return wire.ServeRequest.decode(fields[wire.PAYLOAD])
        except (ValueError, TypeError):
            logger.exception("entry %s of %s can't be read; it is dropped", entry_id, self._stream)
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.xack(self._stream, wire.REQUEST_GROUP, entry_id)
            pipe.xdel(self._stream, entry_id)
            await pipe.execute()
        return None

    # -- serving one request -------------------------------------------------------------------------

    def _leaves_room(self) -> bool:
        """Whether shadow runs may start: half of the engine is free."""
        return 2 * len(self._serving) <= self._engine.max_concurrency

    def _serve(self, entry_id: bytes, fields: dict[bytes, bytes]) -> None:
        if len(self._serving) + self._shadow.running >= self._engine.max_concurrency:
            self._shadow.make_way()
        task = asyncio.create_task(self._decode(entry_id, fields))
        self._serving[entry_id] = task
        task.add_done_callback(lambda _: self._done(entry_id))

    def _done(self, entry_id: bytes) -> None:
        self._serving.pop(entry_id, None)
        self._slot_free.set()

    async def _decode(self, entry_id: bytes, fields: dict[bytes, bytes]) -> None:
        request = await self._read(entry_id, fields)
        if request is None:
            return
        waited = time.time() - request.admitted_at
        remaining = request.deadline_at - time.time()
        if remaining <= 0:
            self._time_out(entry_id, request, None)
            return
        timer = asyncio.get_running_loop().call_later(remaining, self._at_deadline, request.id)
        try:
            result = await self._generate(request)
        except EngineError as error:
            self._fail(entry_id, request, str(error), 400 if error.invalid_request else 500, error.code)
        except ValueError as error:
            self._fail(entry_id, request, str(error), 500)
        else:
            self._end(entry_id, request, result, waited)
        finally:
            timer.cancel()
            self._timed_out.discard(request.id)

    async def _generate(self, request: wire.ServeRequest) -> GenerationResult:
        generation = GenerationRequest(
            id=request.id,
            messages=request.messages,
            policy=policy_from_spec(request.policy),
            sampling=Sampling(request.temperature, request.top_p, request.seed, request.max_tokens),
            stream=request.stream,
            client_cap=request.client_cap,
        )
        first = True
        async for event in self._engine.generate(generation):
            if isinstance(event, Delta):
                reply = wire.ReplyEvent(request.id, event.kind.value, event.text)
                self._outbox.put(request.reply_to, reply, first_text=first)
                first = False
            else:
                return event.result
        raise EngineError("the engine ended without a result")

    def _at_deadline(self, request_id: str) -> None:
        self._timed_out.add(request_id)
        self._engine.cancel(request_id)

    # -- endings ---------------------------------------------------------------------------------------

    def _end(self, entry_id: bytes, request: wire.ServeRequest, result: GenerationResult, waited: float) -> None:
        record = _record(request, result, waited)
        if result.finish_reason is not FinishReason.CANCELLED:
            body = dataclasses.asdict(record)
            del body["messages"]
            self._settle(entry_id, request, record, "finished", body)
        elif request.id in self._timed_out:
            self._time_out(entry_id, request, record)
        else:
            cancelled = dataclasses.replace(record, outcome="cancelled")
            self._settle(entry_id, request, cancelled, "error", _error_body("cancelled", "cancelled", 499))

    def _time_out(self, entry_id: bytes, request: wire.ServeRequest, record: wire.CompletionRecord | None) -> None:
        seconds = request.deadline_at - request.admitted_at
        message = f"no answer within {seconds:g} seconds"
        base = record or wire.CompletionRecord(request.id, "timeout", time.time(), messages=request.messages)
        timed_out = dataclasses.replace(base, outcome="timeout", error=message)
        self._settle(entry_id, request, timed_out, "error", _error_body(message, "timeout", 504))

    def _fail(
        self,
        entry_id: bytes,
        request: wire.ServeRequest,
        message: str,
        status: int,
        code: str = "engine_error",
    ) -> None:
        record = wire.CompletionRecord(
            request.id,
            "error",
            time.time(),
            error=message,
            messages=request.messages,
            latency_seconds=time.time() - request.admitted_at,
        )
        self._settle(entry_id, request, record, "error", _error_body(message, code, status))

    def _settle(
        self, entry_id: bytes, request: wire.ServeRequest, record: wire.CompletionRecord, kind: str, body: Any
    ) -> None:
        event = wire.ReplyEvent(request.id, kind, body)
        ended = dataclasses.replace(record, deliveries=self._deliveries.pop(request.id, 1))
        self._outbox.put(request.reply_to, event, Ending(ended, self._stream, entry_id))


def _error_body(message: str, code: str, status: int) -> dict[str, Any]:
    return {"message": message, "code": code, "status": status}


def _record(request: wire.ServeRequest, result: GenerationResult, waited: float) -> wire.CompletionRecord:
    """The record of a request that an engine has answered or was told to stop.

    Args:
        waited: seconds from admission until this host took the request.
    """
    now = time.time()
    left = result.exit
    return wire.CompletionRecord(
        id=request.id,
        outcome="answered",
        completed_at=now,
        finish_reason=result.finish_reason.value,
        exit_reason=left.reason.value if left else "",
        exit_detail=left.detail[:200] if left else "",
        decision_step=left.decision_step if left else None,
        applied_step=result.applied_step,
        prompt_tokens=result.tokens.prompt,
        thinking_tokens=result.tokens.thinking,
        answer_tokens=result.tokens.answer,
        probe_tokens=result.tokens.probe,
        overrun_tokens=result.tokens.overrun,
        prefill_tokens=result.tokens.prefill,
        probes=result.probes,
        enforcement_failures=",".join(result.failures),
        estimated_counts=",".join(result.tokens.estimated),
        messages=request.messages,
        thinking=result.thinking,
        text=result.text,
        answer=result.answer,
        queue_seconds=waited + result.queued_seconds,
        latency_seconds=now - request.admitted_at,
    )
