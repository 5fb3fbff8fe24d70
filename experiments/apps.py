"""The Django app."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_migrate


def _make_roles(**options: Any) -> None:
    from experiments.services.roles import make_groups

    make_groups(options["using"])


class ExperimentsConfig(AppConfig):
    """Experiments, their traffic and their results."""

    name = "experiments"
    verbose_name = "Curtail"

    def ready(self) -> None:
        """Have the groups of the roles there whenever the tables are."""
        post_migrate.connect(_make_roles, sender=self)
