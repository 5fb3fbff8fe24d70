"""The engine host: all checkpoints of an installation, served from one Celery worker.

It runs an event loop in a thread of its own; a bootstep starts, drains and stops it with the worker.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

from experiments import wire
from experiments.asyncio_tasks import end_tasks
from workers.checkpoint_server import CheckpointServer
from workers.engines.base import Engine, EngineError
from workers.metrics import EngineLoad, worker_metrics
from workers.outbox import Outbox
from workers.served import ServedCheckpoint

logger = logging.getLogger(__name__)
REFRESH_SECONDS = 1.0
BEAT_SECONDS = 1.0
# Gateways take a checkpoint as unserved when its hosts have said nothing for so long.
SILENT_AFTER_SECONDS = 6
DRAIN_SECONDS = 30.0


class EngineHost:
    """Serves every registered checkpoint, new ones within a second of their registration.

    Args:
        connect: makes an asynchronous Redis client in the running event loop.
        list_checkpoints: reads what is to be served (blocking).
        make_engine: builds the engine of a checkpoint (not started).
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        list_checkpoints: Callable[[], Sequence[ServedCheckpoint]],
        make_engine: Callable[[ServedCheckpoint], Engine],
    ) -> None:
        self._connect = connect
        self._list_checkpoints = list_checkpoints
        self._make_engine = make_engine
        self._consumer = f"{socket.gethostname()}:{os.getpid()}"
        self._servers: dict[ServedCheckpoint, CheckpointServer] = {}
        self._running: dict[ServedCheckpoint, asyncio.Task[None]] = {}
        self._unservable: set[ServedCheckpoint] = set()
        self._wanted: tuple[ServedCheckpoint, ...] = ()
        self._version = -1
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None

    def start(self) -> None:
        """Start serving in a thread."""
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main(ready)), name="engine-host")
        self._thread.start()
        ready.wait()

    def stop(self) -> None:
        """Take no more requests, finish those in flight, stop. Returns when done."""
        if self._thread is None or self._loop is None or self._stopping is None:
            return
        try:
            self._loop.call_soon_threadsafe(self._stopping.set)
        except RuntimeError:
            logger.warning("the engine host had ended before it was stopped")
        self._thread.join()

    async def _main(self, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        ready.set()
        redis = self._connect()
        outbox = Outbox(redis)
        metrics = worker_metrics()
        metrics.engines, metrics.outbox_events = self._loads, lambda: outbox.waiting
        flushing = asyncio.create_task(outbox.flush_forever())
        listening = asyncio.create_task(self._listen_for_cancellations(redis))
        beating = asyncio.create_task(self._beat(redis))
        try:
            while not self._stopping.is_set():
                await self._refresh(redis, outbox)
                try:
                    await asyncio.wait_for(self._stopping.wait(), REFRESH_SECONDS)
                except TimeoutError:
                    continue
        finally:
            await self._shut_down(outbox)
            await end_tasks((flushing, listening, beating))
            await redis.aclose()

    async def _refresh(self, redis: Any, outbox: Outbox) -> None:
        """Serve what has been registered since; restart what died; let go of what was changed."""
        try:
            version = int(await redis.get(wire.CONFIG_VERSION_KEY) or 0)
            if version != self._version:
                self._wanted = tuple(await asyncio.to_thread(self._list_checkpoints))
                self._version = version
        except Exception:
            logger.exception("the checkpoints could not be listed; those served so far go on")
            return
        for checkpoint in [c for c in self._running if c not in self._wanted or self._has_failed(c)]:
            await self._release(checkpoint)
        for checkpoint in self._wanted:
            if checkpoint not in self._running and checkpoint not in self._unservable:
                await self._serve(checkpoint, redis, outbox)

    def _has_failed(self, checkpoint: ServedCheckpoint) -> bool:
        """Whether its server has ended, or its engine can't go on (vLLM's processes may die by themselves)."""
        return self._running[checkpoint].done() or not self._servers[checkpoint].alive

    async def _serve(self, checkpoint: ServedCheckpoint, redis: Any, outbox: Outbox) -> None:
        try:
            engine = self._make_engine(checkpoint)
            await engine.start()
        except EngineError:
            # Until it is registered anew: loading it again each second would end the same way.
            self._unservable.add(checkpoint)
            logger.exception("checkpoint %s cannot be served", checkpoint.name)
            return
        server = CheckpointServer(redis, outbox, engine, checkpoint.id, self._consumer)
        self._servers[checkpoint] = server
        self._running[checkpoint] = asyncio.create_task(server.run())
        logger.info("serving checkpoint %s", checkpoint.name)

    async def _release(self, checkpoint: ServedCheckpoint) -> None:
        task = self._running.pop(checkpoint)
        # Longer than the server takes to end its own tasks.
        await end_tasks((task,), again_after=5.0)
        if not task.cancelled() and task.exception() is not None:
            logger.error("serving checkpoint %s failed", checkpoint.name, exc_info=task.exception())
        await self._servers.pop(checkpoint).drain(DRAIN_SECONDS)

    async def _shut_down(self, outbox: Outbox) -> None:
        await asyncio.gather(*(self._release(checkpoint) for checkpoint in list(self._running)))
        await outbox.drained()

    def _loads(self) -> list[EngineLoad]:
        """How busy each engine is; the metrics' thread asks."""
        return [
            EngineLoad(checkpoint.id, server.in_flight, server.capacity, server.shadow_runs)
            for checkpoint, server in list(self._servers.items())
        ]

    async def _beat(self, redis: Any) -> None:
        """Say which checkpoints are served, until the host stops: one that drains takes no more requests."""
        while self._stopping is not None and not self._stopping.is_set():
            try:
                async with redis.pipeline(transaction=False) as pipe:
                    for checkpoint, server in self._servers.items():
                        if server.alive:
                            pipe.set(wire.host_key(checkpoint.id), self._consumer, ex=SILENT_AFTER_SECONDS)
                    await pipe.execute()
            except asyncio.CancelledError:
                raise
            except Exception as error:
                logger.warning("the host's heartbeat failed (%s); trying again", error)
            await asyncio.sleep(BEAT_SECONDS)

    async def _listen_for_cancellations(self, redis: Any) -> None:
        while True:
            try:
                async with redis.pubsub() as channel:
                    await channel.subscribe(wire.CANCEL_CHANNEL)
                    async for message in channel.listen():
                        if message["type"] == "message":
                            for server in self._servers.values():
                                server.cancel(message["data"].decode())
            except asyncio.CancelledError:
                raise
            except Exception:
                logger.exception("listening for cancellations failed; trying again")
                await asyncio.sleep(REFRESH_SECONDS)
