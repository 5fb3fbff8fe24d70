"""`manage.py issue_key`: an API key for one use case or several."""

from __future__ import annotations

import getpass
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from experiments.models import ApiKey, UseCase
from experiments.services.errors import ServiceError
from experiments.services.registry import issue_api_key


class Command(BaseCommand):
    """Issues a key; its token is shown this once."""

    help = "Issue an API key (shown once)."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", help="what the key is for")
        parser.add_argument("use_case", help="where its requests go unless they name another use case")
        parser.add_argument("--scope", action="append", choices=ApiKey.Scope.values, help="default: serve", default=[])
        parser.add_argument("--also", action="append", metavar="USE_CASE", help="requests may name it", default=[])
        parser.add_argument("--any-use-case", action="store_true", help="requests may name any use case")

    def handle(self, *args: Any, **options: Any) -> None:
        own, *further = [_use_case(slug) for slug in [options["use_case"], *options["also"]]]
        scopes = options["scope"] or [ApiKey.Scope.SERVE]
        try:
            issued = issue_api_key(
                getpass.getuser(),
                options["name"],
                own,
                scopes,
                further=further,
                any_use_case=options["any_use_case"],
            )
        except ServiceError as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"API key (shown once): {issued.token}")


def _use_case(slug: str) -> UseCase:
    found = UseCase.objects.filter(slug=slug).first()
    if found is None:
        known = ", ".join(UseCase.objects.values_list("slug", flat=True))
        raise CommandError(f"use_case must be one of {known}, got {slug!r}")
    return found
