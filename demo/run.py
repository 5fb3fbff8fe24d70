"""The demo from start to end: servers, registration, traffic, verdicts."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from django.conf import settings
from rich.console import Console

from curtail.processes import Supervisor
from curtail.single_machine import Running, stack
from demo.errors import DemoError

STORED_WITHIN_SECONDS = 60.0
LOOK_WITHIN_SECONDS = 60.0


def run(*, port: int | None, keep_serving: bool) -> None:
    """Run the demo.

    Args:
        port: port of the web server; None: 8000, or any that is free.
        keep_serving: whether to go on serving until Ctrl-C.

    Raises:
        ServiceError: a server or worker can't be started or died.
        DemoError: traffic or results are not as they must be.
    """
    console = Console(highlight=False)
    with stack(console, port) as running:
        _show(console, running, keep_serving)


def _show(console: Console, running: Running, keep_serving: bool) -> None:
    from demo import report, seed, traffic
    from demo.scenario import experiments

    supervisor, address = running.supervisor, running.address
    seeded = seed.seed(experiments())
    for demo in seeded.experiments:
        sent = traffic.send(console, f"{address}/v1", demo, supervisor.check)
        _wait(supervisor, partial(seed.all_stored, demo), STORED_WITHIN_SECONDS, "the last completions")
        report.check_admitted_equals_stored(demo, sent)
        before = seed.newest_look(demo)
        seed.ask_for_look(demo)
        _wait(supervisor, partial(seed.is_looked_at_since, demo, before), LOOK_WITHIN_SECONDS, "the statistics")
        report.print_results(console, demo)
    report.check_published(console, seeded.experiments)
    report.print_access(console, address, seeded)
    if keep_serving:
        console.print("\nServing until [bold]Ctrl-C[/bold].")
        supervisor.wait()


def _wait(supervisor: Supervisor, until: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds

    def reached() -> bool:
        if time.monotonic() > deadline:
            raise DemoError(
                f"{what} did not arrive within {seconds:g} seconds; see the logs in {settings.CURTAIL_HOME}"
            )
        return until()

    supervisor.wait(reached)
