"""`manage.py create_key`: make an API key of a use case."""

from __future__ import annotations

import getpass
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from experiments.models import ApiKey, UseCase
from experiments.services.registry import issue_api_key


class Command(BaseCommand):
    """Writes the token, which is shown this once."""

    help = "Make an API key of a use case; its token is shown once."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("use_case", help="slug of the use case")
        parser.add_argument("--name", default="key", help="to recognise it by")
        parser.add_argument(
            "--scope", action="append", choices=ApiKey.Scope.values, help="may be given several times; default: serve"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        use_case = UseCase.objects.filter(slug=options["use_case"]).first()
        if use_case is None:
            raise CommandError(f"use_case must be the slug of a use case, got {options['use_case']!r}")
        longest = ApiKey._meta.get_field("name").max_length or 0
        if not 1 <= len(options["name"]) <= longest:
            raise CommandError(f"name must have from 1 to {longest} characters, got {len(options['name'])}")
        scopes = sorted(set(options["scope"] or [ApiKey.Scope.SERVE.value]))
        issued = issue_api_key(getpass.getuser(), options["name"], use_case, scopes)
        self.stdout.write(issued.token)
