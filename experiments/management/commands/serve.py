"""`manage.py serve`: everything on this machine, without the demo."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser


class Command(BaseCommand):
    """Serves until Ctrl-C."""

    help = "Start the servers, the gateway, the workers and the pages on this machine, and serve until Ctrl-C."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--port", type=int, help="port of the web server (default: 8000, or a free one)")

    def handle(self, *args: Any, **options: Any) -> None:
        from rich.console import Console

        from curtail.embedded import ServiceError
        from curtail.single_machine import stack

        console = Console(highlight=False)
        try:
            with stack(console, options["port"]) as running:
                console.print(f"Pages {running.address}/   endpoint {running.address}/v1   until [bold]Ctrl-C[/bold]")
                running.keep_running(console)
        except ServiceError as error:
            raise CommandError(str(error)) from None
        except KeyboardInterrupt:
            self.stderr.write("interrupted; everything that was started has been stopped")
            raise SystemExit(130) from None
