"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig


class ExperimentsConfig(AppConfig):
    """Experiments, their traffic and their results."""

    name = "experiments"
    verbose_name = "Curtail"
