"""Queueing shadow runs."""

from __future__ import annotations

from celery import shared_task

from experiments.services.shadow import queue_due


@shared_task  # type: ignore[untyped-decorator]
def queue_shadow_runs() -> None:
    """Queue the shadow runs of the drawn requests that were answered since."""
    queue_due()
