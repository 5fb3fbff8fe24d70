"""Marking requests that changed after they were counted."""

from __future__ import annotations

from collections.abc import Sequence

from django.db import connection

_MARK = """
INSERT INTO experiments_recount (admission_id, phase_id)
SELECT a.id, a.phase_id FROM experiments_admission a JOIN experiments_phase p ON p.id = a.phase_id
WHERE a.id = ANY(%s) AND a.admitted_at < p.counted_until
ON CONFLICT DO NOTHING
"""


def mark_changed(admission_ids: Sequence[str]) -> None:
    """Have these requests counted again if they are counted already.

    Call it under the grading lock, in the transaction of the change: counting takes the same lock, so a change
    is either seen by it or marked.
    """
    with connection.cursor() as cursor:
        cursor.execute(_MARK, [list(admission_ids)])
