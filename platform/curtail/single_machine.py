"""Everything on this machine: embedded servers where none are given, tables, processes; cleaned up at the end."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

from django.conf import settings
from django.core.management import call_command
from rich.console import Console

from curtail.embedded import Services, embedded_services
from curtail.processes import Supervisor, choose_port, terminate_as_exit
from curtail.reviving import Reviver
from curtail.stack import start_stack


@dataclass(frozen=True, slots=True)
class Running:
    """A running installation.

    Attributes:
        supervisor: owns its processes.
        address: of the web server, without a final slash.
        services: PostgreSQL and Redis.
    """

    supervisor: Supervisor
    address: str
    services: Services

    def keep_running(self, console: Console) -> NoReturn:
        """Start again what dies, saying so, until interrupted."""
        Reviver((*self.services.servers, *self.supervisor.children), console.print).keep_running()


@contextmanager
def stack(console: Console, port: int | None) -> Iterator[Running]:
    """Start everything, saying so step by step; stop all of it when the block ends, however it ends.

    Args:
        console: where the progress goes.
        port: of the web server; None: 8000, or any that is free.

    Raises:
        ServiceError: a server or process can't be started; one clear line.
    """
    chosen = choose_port(port)
    database_url, redis_url = os.environ.get("DATABASE_URL"), os.environ.get("REDIS_URL")
    began = time.monotonic()

    def ready(what: str) -> None:
        nonlocal began
        now = time.monotonic()
        console.print(f"  [green]ready[/green] {what} [dim]({now - began:.1f} s)[/dim]")
        began = now

    with (
        terminate_as_exit(),
        embedded_services(settings.CURTAIL_HOME, database_url=database_url, redis_url=redis_url) as services,
        Supervisor(settings.CURTAIL_HOME / "logs") as supervisor,
    ):
        ready("PostgreSQL and Redis")
        call_command("migrate", interactive=False, verbosity=0)
        ready("database tables")
        for started in start_stack(supervisor, services, chosen):
            ready(started.name)
        yield Running(supervisor, f"http://127.0.0.1:{chosen}", services)
