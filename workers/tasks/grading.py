"""Grading by graders that may take any time."""

from __future__ import annotations

from celery import shared_task

from experiments.services.isolated_grading import grade_all_waiting
from experiments.services.private_rows import settle_lost

_SECONDS = 60.0


@shared_task  # type: ignore[untyped-decorator]
def grade_waiting() -> None:
    """Grade the labels and shadow runs that wait, unless another worker is at it.

    Private references of requests that will not end any more are forgotten.
    """
    grade_all_waiting(within=_SECONDS)
    settle_lost()
