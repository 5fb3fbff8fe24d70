"""How the engine host, the ledger writer and the metrics live inside Celery workers: started and stopped with them."""

from __future__ import annotations

from typing import Any, ClassVar

from celery import bootsteps
from django.conf import settings

from experiments.services.off_thread import off_thread
from experiments.services.redis_clients import async_redis, sync_redis_client
from workers.ledger_writer import LedgerWriter
from workers.metrics import MetricsServer
from workers.serving import EngineHost


class EngineHostStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """`celery worker --engine-host`: serves the registered checkpoints."""

    requires: ClassVar = {"celery.worker.components:Pool"}

    def __init__(self, worker: Any, engine_host: bool = False, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        self.enabled = engine_host

    def create(self, worker: Any) -> EngineHost:
        from workers.checkpoints import hosted_checkpoints, make_engine

        return EngineHost(async_redis, off_thread(hosted_checkpoints), make_engine)


class LedgerWriterStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """`celery worker --ledger-writer`: stores admissions and completions."""

    requires: ClassVar = {"celery.worker.components:Pool"}

    def __init__(self, worker: Any, ledger_writer: bool = False, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        self.enabled = ledger_writer

    def create(self, worker: Any) -> LedgerWriter:
        return LedgerWriter(sync_redis_client)


class MetricsStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Serves this worker's metrics where CURTAIL_WORKER_METRICS_PORT is set."""

    requires: ClassVar = {"celery.worker.components:Pool"}

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        self.enabled = settings.WORKER_METRICS_PORT > 0

    def create(self, worker: Any) -> MetricsServer:
        return MetricsServer(settings.WORKER_METRICS_HOST, settings.WORKER_METRICS_PORT)
