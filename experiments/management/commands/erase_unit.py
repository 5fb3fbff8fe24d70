"""`manage.py erase_unit`: the texts of one unit, gone for good."""

from __future__ import annotations

import getpass
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from experiments.models import UseCase
from experiments.services.erasure import erase_unit
from experiments.services.errors import ServiceError


class Command(BaseCommand):
    """Erases in one use case; a second time changes nothing."""

    help = "Erase the texts of a user, a conversation or a request; counts and verdicts stay."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("use_case", help="its name in requests")
        parser.add_argument("unit", help="id of the user, the conversation or the request")

    def handle(self, *args: Any, **options: Any) -> None:
        use_case = UseCase.objects.filter(slug=options["use_case"]).first()
        if use_case is None:
            raise CommandError(f"use_case must be the name of a use case, got {options['use_case']!r}")
        try:
            erased = erase_unit(getpass.getuser(), use_case, options["unit"])
        except ServiceError as error:
            raise CommandError(str(error)) from None
        self.stdout.write(
            f"erased the texts of {erased.completions} completions and {erased.shadow_runs} shadow runs; "
            f"{erased.labels} ungraded labels and {erased.dead_letters} dead letters are removed"
        )
