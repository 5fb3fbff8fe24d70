"""`manage.py grant_role`: say what a person may do on the pages."""

from __future__ import annotations

import getpass
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from experiments.services.errors import ServiceError
from experiments.services.roles import Role, grant_role


class Command(BaseCommand):
    """Grants one role in the place of another; a second time changes nothing."""

    help = "Give a person the role viewer (reads), editor (drafts, starts, pauses) or owner (ships, reverts)."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("user", help="name of the login")
        parser.add_argument("role", choices=[role.word for role in Role])

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            grant_role(getpass.getuser(), options["user"], options["role"])
        except ServiceError as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"{options['user']} is now {options['role']}")
