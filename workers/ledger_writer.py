"""The batch writer: from the ledger stream to PostgreSQL, in a thread of a Celery worker."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

import redis.exceptions
from django.db import DataError, Error, IntegrityError, connections

from experiments import wire
from experiments.services.ledger import ingest
from experiments.services.sealing import unseal
from workers.metrics import worker_metrics

logger = logging.getLogger(__name__)

_BATCH = 500
_BLOCK_MILLISECONDS = 200
# Storing a batch twice changes nothing, so a slow writer may be taken for a dead one.
_DEAD_AFTER_MILLISECONDS = 5_000
_RETRY_SECONDS = 0.5
# What says that an entry, not the database, is at fault.
_REFUSED = (DataError, IntegrityError, ValueError, TypeError, KeyError, OverflowError)
_Entry = tuple[bytes, dict[bytes, bytes]]


class LedgerWriter:
    """Reads the ledger with a consumer group and stores it; an entry leaves the stream once it is stored.

    Args:
        connect: makes a synchronous Redis client.
    """

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._consumer = f"{socket.gethostname()}:{os.getpid()}"
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start writing in a thread."""
        self._thread = threading.Thread(target=self._run, name="ledger-writer")
        self._thread.start()

    def stop(self) -> None:
        """Finish the batch in hand and stop. Returns when done."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        client = self._connect()
        try:
            while not self._stopping.is_set():
                try:
                    self._make_group(client)
                    self._write_until_stopped(client)
                except (redis.exceptions.RedisError, Error):
                    # Nothing was acknowledged, so nothing is lost: the batch comes again.
                    logger.exception("the ledger could not be written; trying again")
                    connections.close_all()
                    self._stopping.wait(_RETRY_SECONDS)
        finally:
            connections.close_all()
            client.close()

    def _make_group(self, client: Any) -> None:
        try:
            client.xgroup_create(wire.LEDGER_STREAM, wire.LEDGER_GROUP, id="0", mkstream=True)
        except redis.exceptions.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    def _write_until_stopped(self, client: Any) -> None:
        while not self._stopping.is_set():
            self._store(client, self._abandoned(client) or self._next(client))

    def _next(self, client: Any) -> Sequence[_Entry]:
        answer = client.xreadgroup(
            wire.LEDGER_GROUP,
            self._consumer,
            {wire.LEDGER_STREAM: ">"},
            count=_BATCH,
            block=_BLOCK_MILLISECONDS,
        )
        return answer[0][1] if answer else []

    def _abandoned(self, client: Any) -> Sequence[_Entry]:
        """Entries that a writer (this one too) took and did not finish."""
        _, entries, *_ = client.xautoclaim(
            wire.LEDGER_STREAM,
            wire.LEDGER_GROUP,
            self._consumer,
            min_idle_time=_DEAD_AFTER_MILLISECONDS,
            count=_BATCH,
        )
        return [entry for entry in entries if entry[1]]

    def _store(self, client: Any, entries: Sequence[_Entry]) -> None:
        if not entries:
            worker_metrics().idle()
            return
        set_aside = 0
        try:
            self._ingest(entries)
        except _REFUSED:
            logger.exception("a batch of %d ledger entries was refused; storing them one by one", len(entries))
            for entry in entries:
                set_aside += not self._store_alone(client, entry)
        ids = [entry_id for entry_id, _ in entries]
        with client.pipeline(transaction=True) as pipe:
            pipe.xack(wire.LEDGER_STREAM, wire.LEDGER_GROUP, *ids)
            pipe.xdel(wire.LEDGER_STREAM, *ids)
            pipe.execute()
        worker_metrics().stored(len(entries), set_aside, ids[0])

    def _store_alone(self, client: Any, entry: _Entry) -> bool:
        """Store one entry; one that can't be stored is set aside, so that it holds up nothing, and False."""
        try:
            self._ingest([entry])
        except _REFUSED:
            logger.exception("ledger entry %s cannot be stored; it is kept in %s", entry[0], wire.LEDGER_DEAD_STREAM)
            client.xadd(wire.LEDGER_DEAD_STREAM, entry[1])
            return False
        return True

    def _ingest(self, entries: Sequence[_Entry]) -> None:
        admissions, completions, shadow_runs = [], [], []
        for _, fields in entries:
            payload = unseal(fields[wire.PAYLOAD])
            if fields[wire.KIND] == b"admission":
                admissions.append(wire.AdmissionRecord.decode(payload))
            elif fields[wire.KIND] == b"completion":
                completions.append(wire.CompletionRecord.decode(payload))
            elif fields[wire.KIND] == b"shadow":
                shadow_runs.append(wire.ShadowRecord.decode(payload))
            else:
                raise ValueError(
                    f"ledger entries are of kind admission, completion or shadow, got {fields[wire.KIND]!r}"
                )
        ingest(admissions, completions, shadow_runs)
