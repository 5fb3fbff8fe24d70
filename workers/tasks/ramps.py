"""Ramps: coverage rises when its time has come."""

from __future__ import annotations

from celery import shared_task

from experiments.services import ramps


@shared_task  # type: ignore[untyped-decorator]
def advance_ramps() -> None:
    """Take the steps that are due."""
    ramps.advance_ramps()
