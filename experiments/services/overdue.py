"""An outcome for what was admitted and lost: its gateway was killed, or Redis came back without its last second.

Whoever serves a request writes its ending, at its deadline at the latest. What has none long after that will never
get one; its client has been told so, or is gone. What is served elsewhere is left alone: its completion may be posted
late, and looks count it as a timeout until then.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connection
from django.db.models import Max
from django.utils import timezone

from experiments import wire
from experiments.models import UseCase
from experiments.services.assigned_ids import PREFIX
from experiments.services.ledger import ingest
from experiments.services.looks import LOST_AFTER_SECONDS

LOST = "no ending was recorded by the deadline"
# What a first run looks back at.
_FURTHEST_BACK = timedelta(days=1)

# PostgreSQL skips through the index by phase and time.
_LOST = """
SELECT a.id, extract(epoch FROM a.deadline_at)::float8
FROM experiments_admission a LEFT JOIN experiments_completion c ON c.id = a.id
WHERE a.admitted_at >= %s AND a.admitted_at < %s AND a.deadline_at < %s AND c.id IS NULL
  AND NOT starts_with(a.id, %s)
"""


def end_overdue(redis: Any) -> int:
    """End what was lost as a timeout; how many that were.

    Each admission is looked at once: a mark in Redis says up to when that has been done. Nothing is ended while its
    ending may still be on its way: Redis has just come back, or the ledger holds entries that old.
    """
    now = timezone.now()
    lost_before = now - timedelta(seconds=LOST_AFTER_SECONDS)
    longest = UseCase.objects.aggregate(longest=Max("deadline_seconds"))["longest"]
    if longest is None or not _ledger_is_read(redis, lost_before):
        return 0
    since, until = _mark(redis) or now - _FURTHEST_BACK, lost_before - timedelta(seconds=longest)
    if until <= since:
        return 0
    with connection.cursor() as cursor:
        cursor.execute(_LOST, [since, until, lost_before, PREFIX])
        lost = [wire.CompletionRecord(pk, "timeout", at, error=LOST) for pk, at in cursor.fetchall()]
    ended = ingest([], lost).completions
    redis.set(wire.OVERDUE_KEY, until.timestamp())
    return ended


def _ledger_is_read(redis: Any, until: datetime) -> bool:
    """Whether everything that was written before has been stored, by hosts that had time to write what they held."""
    if int(redis.info("server")["uptime_in_seconds"]) < LOST_AFTER_SECONDS:
        return False
    oldest = redis.xrange(wire.LEDGER_STREAM, count=1)
    if not oldest:
        return True
    milliseconds = int(oldest[0][0].partition(b"-")[0])
    return datetime.fromtimestamp(milliseconds / 1000, UTC) > until


def _mark(redis: Any) -> datetime | None:
    value = redis.get(wire.OVERDUE_KEY)
    return None if value is None else datetime.fromtimestamp(float(value), UTC)
