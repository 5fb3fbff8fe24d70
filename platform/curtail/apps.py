"""The project as a Django app, so that its system checks are registered."""

from __future__ import annotations

from django.apps import AppConfig


class CurtailConfig(AppConfig):
    """Registers the system checks and the Celery application; it has no tables."""

    name = "curtail"

    def ready(self) -> None:
        """Import them, which registers them: tasks sent from any process use our Celery application."""
        from curtail import celery_app, checks  # noqa: F401
