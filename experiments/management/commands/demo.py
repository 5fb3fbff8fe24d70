"""`manage.py demo`: the whole product on this machine, with real traffic."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser


class Command(BaseCommand):
    """Runs the demo."""

    help = "Start everything, send real requests through two experiments, print the verdicts, keep serving."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--exit", action="store_true", help="end after the verdicts instead of serving on")
        parser.add_argument("--port", type=int, help="port of the web server (default: 8000, or a free one)")

    def handle(self, *args: Any, **options: Any) -> None:
        from curtail.embedded import ServiceError
        from demo.errors import DemoError
        from demo.run import run

        try:
            run(port=options["port"], keep_serving=not options["exit"])
        except (ServiceError, DemoError) as error:
            raise CommandError(str(error)) from None
        except KeyboardInterrupt:
            self.stderr.write("interrupted; everything that was started has been stopped")
            raise SystemExit(130) from None
