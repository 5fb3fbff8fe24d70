"""Looks: every minute at every running experiment, and at one on demand."""

from __future__ import annotations

import logging

from celery import shared_task

from experiments.models import Experiment
from experiments.services.looks import look
from workers.tasks.notifications import deliver_notifications

logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 5  # then 10 and 20


@shared_task  # type: ignore[untyped-decorator]
def take_looks() -> None:
    """Ask for a look at each running experiment."""
    for pk in Experiment.objects.filter(state=Experiment.State.RUNNING).values_list("pk", flat=True):
        take_look.delay(pk)


# A look that failed is tried again before its next turn in a minute, and leaves time to whatever it stumbled over.
@shared_task(  # type: ignore[untyped-decorator]
    autoretry_for=(Exception,), max_retries=3, retry_backoff=FIRST_PAUSE_SECONDS, retry_jitter=False
)
def take_look(experiment_id: int) -> None:
    """Look at one experiment, unless somebody else is doing so right now."""
    snapshot = look(experiment_id)
    if snapshot is None:
        logger.info("experiment %d is being looked at by another worker", experiment_id)
        return
    # The owner hears of a revert at once; a message that fails is tried again by its own schedule.
    deliver_notifications.delay()
