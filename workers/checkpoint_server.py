"""Serving one checkpoint: its request stream in, tokens and records out."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from typing import Any

import redis.exceptions

from experiments import wire
from experiments.asyncio_tasks import end_tasks
from experiments.services.sealing import unseal
from workers.decoding import Ended, decode, failed
from workers.engines.base import Engine
from workers.metrics import worker_metrics
from workers.outbox import Ending, Outbox
from workers.shadow_server import ShadowServer
from workers.tracing import trace_decoding

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 1.0
# Several beats: a host that is only slow (a model being loaded beside it) keeps its requests.
DEAD_AFTER_SECONDS = 5.0
MAX_DELIVERIES = 3
_BLOCK_MILLISECONDS = 500
_GONE_AFTER_SECONDS = 0.5
# A host's own entries: what it decodes, and a few that it was given and never heard of.
_MOST_PENDING = 10_000


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
        self._checkpoint_id = checkpoint_id
        self._stream = wire.request_stream(checkpoint_id)
        self._consumer = consumer
        self._serving: dict[bytes, asyncio.Task[None]] = {}
        self._slot_free = asyncio.Event()
        self._deliveries: dict[str, int] = {}
        self._shadow = ShadowServer(redis, engine, checkpoint_id, consumer, self._leaves_room)

    @property
    def alive(self) -> bool:
        """Whether the engine can go on serving."""
        return self._engine.alive

    @property
    def in_flight(self) -> int:
        """Requests that are decoded."""
        return len(self._serving)

    @property
    def capacity(self) -> int:
        """Requests that the engine takes at once."""
        return self._engine.max_concurrency

    @property
    def shadow_runs(self) -> int:
        """Shadow runs that are decoded."""
        return self._shadow.running

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
                    # A Redis that came back without its last second gives out anew what is being decoded here.
                    if entry_id not in self._serving:
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
        """Keep what is decoded here; let go of what another host has taken over while this one was silent."""
        if not self._serving:
            return
        mine = list(self._serving)
        holding = await self._redis.xpending_range(
            self._stream, wire.REQUEST_GROUP, "-", "+", _MOST_PENDING, self._consumer
        )
        kept = {entry["message_id"] for entry in holding}.intersection(mine)
        if kept:
            await self._redis.xclaim(
                self._stream, wire.REQUEST_GROUP, self._consumer, min_idle_time=0, message_ids=list(kept), justid=True
            )
        for entry_id in set(mine) - kept:
            await self._let_go_if_taken(entry_id)

    async def _let_go_if_taken(self, entry_id: bytes) -> None:
        holding = await self._redis.xpending_range(self._stream, wire.REQUEST_GROUP, entry_id, entry_id, 1)
        task = self._serving.get(entry_id)
        if task is not None and holding and holding[0]["consumer"] != self._consumer.encode():
            logger.warning("entry %s of %s was taken over by another host", entry_id, self._stream)
            task.cancel()

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
                message = "the server that was answering has failed in mid-answer"
                self._fail(entry_id, request, message, 502, deliveries)
            elif deliveries > MAX_DELIVERIES:
                self._fail(entry_id, request, f"gave up after {MAX_DELIVERIES} deliveries", 500, deliveries)
            else:
                self._deliveries[request.id] = deliveries
                self._serve(entry_id, fields)

    async def _read(self, entry_id: bytes, fields: dict[bytes, bytes]) -> wire.ServeRequest | None:
        """The request of an entry; None for one that can't be read, which is dropped: it would come back for ever.

        Its gateway answers with a timeout.
        """
        try:
            return wire.ServeRequest.decode(unseal(fields[wire.PAYLOAD]))
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
        deliveries, sent = self._deliveries.pop(request.id, 1), 0

        def send(event: wire.ReplyEvent) -> None:
            nonlocal sent
            sent += 1
            numbered = dataclasses.replace(event, number=sent, delivery=deliveries)
            private = request.retention != wire.KEEP
            self._outbox.put(request.reply_to, numbered, first_text=sent == 1, private=private)

        ended = await decode(self._engine, request, send, deliveries)
        self._settle(entry_id, request, ended, sent + 1)

    def _fail(self, entry_id: bytes, request: wire.ServeRequest, message: str, status: int, deliveries: int) -> None:
        self._settle(entry_id, request, failed(request, message, status, deliveries=deliveries))

    def _settle(self, entry_id: bytes, request: wire.ServeRequest, ended: Ended, number: int = 1) -> None:
        worker_metrics().ended(self._checkpoint_id, ended.record)
        trace_decoding(request, ended.record)
        event = dataclasses.replace(ended.event, number=number, delivery=ended.record.deliveries)
        ending = Ending(ended.record, self._stream, entry_id)
        self._outbox.put(request.reply_to, event, ending, private=request.retention != wire.KEEP)
