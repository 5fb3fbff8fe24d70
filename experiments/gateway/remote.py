"""Serving by a remote server: its engine runs in the gateway's own event loop, without the hop over Redis.

The records are the same as an engine host's, and so is the order: the exposure is in the ledger before the client gets
anything, the record of the completion before its last byte.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from experiments import wire
from experiments.asyncio_tasks import end_tasks
from experiments.gateway.admission import Admitted, admission_record, serve_request
from experiments.gateway.answering import Events
from experiments.gateway.chat_request import ChatRequest
from experiments.gateway.errors import ApiError
from experiments.gateway.stream_writer import StreamWriter
from experiments.policies import Policy
from experiments.services.retention import ledger_entry
from workers.decoding import decode
from workers.engines.base import Engine, EngineError, PassesOn
from workers.served import ServedCheckpoint

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Serving:
    """An engine, if there is one, and the requests that it decodes."""

    engine: Engine | None
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)


class RemoteServing:
    """Requests for checkpoints behind remote servers.

    Args:
        writer: of this gateway.
        list_checkpoints: reads the checkpoints behind remote servers (blocking).
        make_engine: builds the engine of one (not started).
    """

    def __init__(
        self,
        writer: StreamWriter,
        list_checkpoints: Callable[[], Sequence[ServedCheckpoint]],
        make_engine: Callable[[ServedCheckpoint], Engine],
    ) -> None:
        self._writer = writer
        self._list_checkpoints = list_checkpoints
        self._make_engine = make_engine
        self._serving: dict[ServedCheckpoint, _Serving] = {}
        self._by_id: dict[int, _Serving] = {}
        self._leaving: list[_Serving] = []
        self._retiring: set[asyncio.Task[None]] = set()
        self._waiting: dict[str, Events] = {}

    def serves(self, checkpoint_id: int) -> bool:
        """Whether a checkpoint is behind a remote server."""
        return checkpoint_id in self._by_id

    def passes(self, checkpoint_id: int, policy: Policy) -> bool:
        """Whether the server of a checkpoint applies a policy to requests that it gets as they are."""
        serving = self._by_id.get(checkpoint_id)
        engine = serving.engine if serving is not None else None
        return isinstance(engine, PassesOn) and engine.passing_refusal(policy) is None

    async def refresh(self) -> None:
        """Start an engine for each checkpoint that is new or was changed; let go of those that are gone."""
        wanted = await asyncio.to_thread(self._list_checkpoints)
        for checkpoint in wanted:
            if checkpoint not in self._serving:
                self._serving[checkpoint] = await self._start(checkpoint)
        for checkpoint in [known for known in self._serving if known not in wanted]:
            self._leaving.append(serving := self._serving.pop(checkpoint))
            retiring = asyncio.create_task(self._retire(serving))
            self._retiring.add(retiring)
            retiring.add_done_callback(self._retiring.discard)
        self._by_id = {checkpoint.id: serving for checkpoint, serving in self._serving.items()}

    async def _start(self, checkpoint: ServedCheckpoint) -> _Serving:
        try:
            engine = self._make_engine(checkpoint)
            await engine.start()
        except EngineError:
            # Until it is registered anew: starting it again would end the same way.
            logger.exception("checkpoint %s cannot be served", checkpoint.name)
            return _Serving(None)
        return _Serving(engine)

    @asynccontextmanager
    async def serve(self, admitted: Admitted, request: ChatRequest) -> AsyncIterator[Events]:
        """Admit a request and have it served; its events while the block lasts.

        The server is asked while the exposure is being written; nobody sees anything of it before that is done.

        Raises:
            redis.exceptions.RedisError: it could not be admitted.
            ApiError: 503 when the checkpoint has no engine.
        """
        serving = self._by_id[admitted.assignment.arm.checkpoint_id]
        if serving.engine is None:
            raise ApiError(503, "the model cannot be served: its server is not configured rightly", "unavailable")
        events: Events = asyncio.Queue()
        admission = asyncio.ensure_future(self._writer.append(ledger_entry(admission_record(admitted, request))))
        serve = serve_request(admitted, request, "")
        task = asyncio.create_task(self._decode(serving.engine, serve, admission, events))
        serving.tasks[admitted.id] = task
        task.add_done_callback(lambda _: serving.tasks.pop(admitted.id))
        try:
            await admission
        except BaseException:
            task.cancel()  # not admitted: nobody is to decode for it
            raise
        self._waiting[admitted.id] = events
        try:
            yield events
        finally:
            del self._waiting[admitted.id]

    def cancel(self, request_id: str) -> bool:
        """Nobody waits for a request any more; its record is written all the same. False: it is none of these."""
        for serving in (*self._serving.values(), *self._leaving):
            if request_id in serving.tasks and serving.engine is not None:
                serving.engine.cancel(request_id)
                return True
        return False

    def end_all(self, error: Mapping[str, Any]) -> None:
        """Give all who wait an error, as the last event."""
        for request_id, events in self._waiting.items():
            events.put_nowait(wire.ReplyEvent(request_id, "error", error))

    async def _decode(
        self, engine: Engine, request: wire.ServeRequest, admission: asyncio.Future[None], events: Events
    ) -> None:
        ended = await decode(engine, request, events.put_nowait)
        try:
            await admission
        except Exception:
            return  # never admitted: it has no completion either
        await self._writer.append_surely(ledger_entry(ended.record))
        events.put_nowait(ended.event)

    async def close(self) -> None:
        """Close all engines; requests in flight end with an error."""
        for serving in self._serving.values():
            if serving.engine is not None:
                await serving.engine.close()
            if serving.tasks:
                await asyncio.wait(serving.tasks.values(), timeout=5.0)
            await end_tasks(tuple(serving.tasks.values()))
        await end_tasks(self._retiring)

    async def _retire(self, serving: _Serving) -> None:
        """Close an engine when its last request has ended."""
        if serving.tasks:
            await asyncio.wait(serving.tasks.values())
        self._leaving.remove(serving)
        if serving.engine is not None:
            await serving.engine.close()
