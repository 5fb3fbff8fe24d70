"""What keeps storing and counting apart: the lock that both take, and marks of what changed after it was counted."""

from __future__ import annotations

from collections.abc import Sequence

from django.db import connection

_GRADING_LOCK = 0x63757274  # any number of our own
_MARK = """
INSERT INTO experiments_recount (admission_id, phase_id)
SELECT a.id, a.phase_id FROM experiments_admission a JOIN experiments_phase p ON p.id = a.phase_id
WHERE a.id = ANY(%s) AND a.admitted_at < p.counted_until
ON CONFLICT DO NOTHING
"""


def hold_grading_lock() -> None:
    """Wait until no other transaction stores labels or completions; held until this one ends.

    Otherwise a label and its completion, stored at the same time, would not see each other, and the label
    would stay ungraded. Take it before labels are stored, and read completions after.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_GRADING_LOCK])


def mark_changed(admission_ids: Sequence[str]) -> None:
    """Have these requests counted again if they are counted already.

    Call it under the grading lock, in the transaction of the change: counting takes the same lock, so a change
    is either seen by it or marked.
    """
    with connection.cursor() as cursor:
        cursor.execute(_MARK, [list(admission_ids)])
