"""Delivering what owners are to be told."""

from __future__ import annotations

from celery import shared_task

from experiments.services.notifications import deliver_due


@shared_task  # type: ignore[untyped-decorator]
def deliver_notifications() -> None:
    """Try every message whose time has come."""
    deliver_due()
