"""Curtail's own processes on one machine: web server with gateway, two Celery workers and beat."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from curtail.embedded import Services
from curtail.processes import Child, Supervisor, http_ready, log_ready

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Started:
    """One process that is ready, by the name it has for people."""

    name: str
    child: Child


def start_stack(supervisor: Supervisor, services: Services, port: int) -> Iterator[Started]:
    """Start the processes one after the other; yields each when it is ready.

    Args:
        supervisor: owns them.
        services: PostgreSQL (migrated) and Redis.
        port: of the web server, on 127.0.0.1, without TLS.

    Raises:
        ProcessError: one does not start; its message ends with its log.
    """
    environment = {
        **os.environ,
        "DATABASE_URL": services.database_url,
        "REDIS_URL": services.redis_url,
        "CURTAIL_HTTPS": "0",
        # The engine stops before the gateway, so there is little to wait for.
        "CURTAIL_DRAIN_SECONDS": os.environ.get("CURTAIL_DRAIN_SECONDS") or "5",
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "platform"))),
    }
    celery = [sys.executable, "-m", "celery", "-A", "curtail.celery_app"]
    worker = [*celery, "worker", "-P", "threads", "-c", "2", "--without-gossip", "--without-mingle", "-l", "INFO"]
    web = [sys.executable, "-m", "curtail.web_server", "--port", str(port)]
    ready = log_ready(" ready.")
    for name, argv, condition in (
        ("web", web, http_ready(f"http://127.0.0.1:{port}/healthz")),
        ("inference-worker", [*worker, "-n", "inference@%h", "-Q", "inference", "--engine-host"], ready),
        ("background-worker", [*worker, "-n", "background@%h", "-Q", "background", "--ledger-writer"], ready),
        ("beat", [*celery, "beat", "-l", "INFO"], log_ready("beat: Starting")),
    ):
        child = supervisor.start(name, argv, ready=condition, env=environment, cwd=ROOT)
        yield Started(name.replace("-", " "), child)
