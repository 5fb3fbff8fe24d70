"""`manage.py force_variant`: a header by which a tester gets one arm of a running experiment."""

from __future__ import annotations

import getpass
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from experiments.models import Experiment
from experiments.services.errors import ServiceError
from experiments.services.forcing import HEADER, issue_header


class Command(BaseCommand):
    """Prints the header; requests that carry it are served by the arm and count nowhere."""

    help = "Print a signed header that forces a variant of an experiment for some time."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("experiment", type=int, help="id of the experiment")
        parser.add_argument("variant", help="key of the variant")
        parser.add_argument("--seconds", type=int, default=3600, help="how long it is valid (default: 3600)")

    def handle(self, *args: Any, **options: Any) -> None:
        experiment = Experiment.objects.filter(pk=options["experiment"]).first()
        if experiment is None:
            raise CommandError(f"experiment must be the id of an experiment, got {options['experiment']}")
        try:
            issued = issue_header(getpass.getuser(), experiment, options["variant"], options["seconds"])
        except ServiceError as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"{HEADER}: {issued.value}")
