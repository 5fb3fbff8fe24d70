"""`manage.py revoke_key`: make an API key worthless."""

from __future__ import annotations

import getpass
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from experiments.models import ApiKey
from experiments.services.registry import revoke_api_key


class Command(BaseCommand):
    """Revokes by id, as GET /api/v1/keys lists it; a second time changes nothing."""

    help = "Revoke an API key, at once and for good."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("key", type=int, help="id of the key")

    def handle(self, *args: Any, **options: Any) -> None:
        key = ApiKey.objects.filter(pk=options["key"]).first()
        if key is None:
            raise CommandError(f"key must be the id of an API key, got {options['key']}")
        revoke_api_key(getpass.getuser(), key)
        self.stdout.write(f"{key} is revoked")
