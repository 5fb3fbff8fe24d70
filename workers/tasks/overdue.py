"""An outcome for what was admitted and lost."""

from __future__ import annotations

import logging

from celery import shared_task

from experiments.services.overdue import end_overdue
from experiments.services.redis_clients import sync_redis

logger = logging.getLogger(__name__)


@shared_task  # type: ignore[untyped-decorator]
def end_lost_requests() -> None:
    """End as a timeout what has no ending long after its deadline."""
    if ended := end_overdue(sync_redis()):
        logger.warning("%d admitted requests were lost; they are stored as timeouts", ended)
