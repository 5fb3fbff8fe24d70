"""What one request adds to the accumulators: read from the traffic, and kept to tell later changes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntFlag
from typing import Any

import numpy as np
from django.db import connection
from numpy.typing import NDArray

from experiments.models import CountedRequest, Experiment, Phase
from experiments.services.staging import upsert
from experiments.statistics.columns import PAIR_COLUMNS, REQUEST_COLUMNS
from experiments.statistics.guardrails import slow_after

COLUMNS = (*REQUEST_COLUMNS, *PAIR_COLUMNS)


class History(IntFlag):
    """What a request went through while it was counted, which its present state does not tell.

    Tests that depend on the order of their data take a request once, whatever becomes of its label afterwards.
    """

    COUNTED = 1
    LABELLED = 2
    RIGHT = 4  # when it was first counted with a label
    LATE = 8  # it was counted before without one
    FEEDBACK = 16


_ENTERS_BY = {"completions": History.COUNTED, "labelled": History.LABELLED, "feedback": History.FEEDBACK}

# A proxy that is missing counts as undecided: a prediction may be any function of what is known.
_UNDECIDED = 50

_READ = f"""
WITH picked AS (
    SELECT a.* FROM experiments_admission a
    WHERE a.phase_id = %(phase)s AND a.variant_id IS NOT NULL
      AND a.admitted_at >= %(since)s AND a.admitted_at < %(until)s
    UNION
    SELECT a.* FROM experiments_admission a
    WHERE a.id = ANY(%(changed)s) AND a.variant_id IS NOT NULL AND a.admitted_at < %(until)s
), known AS (
    SELECT a.id, a.variant_id, a.unit_hash, a.segment, a.admitted_at,
           k.values AS counted, coalesce(k.history, 0) AS history,
           c.thinking_tokens, c.answer_tokens, c.probe_tokens, c.overrun_tokens, c.latency_seconds,
           coalesce(c.outcome, 'timeout') AS outcome, c.finish_reason, c.answer, c.answer_removed,
           coalesce(c.deliveries, 1) AS deliveries, coalesce(c.enforcement_failures, '') AS enforcement_failures,
           CASE WHEN %(source)s = 'audit' THEN a.audited::int ELSE 1 END AS due,
           CASE WHEN c.outcome = 'answered' THEN l.correct::int
                WHEN %(source)s = 'audit' THEN CASE WHEN a.audited THEN 0 END
                WHEN l.id IS NOT NULL THEN 0 END AS correct,
           coalesce(x.score, {_UNDECIDED}) AS proxy, f.score AS feedback,
           CASE WHEN e.id IS NULL THEN 0 ELSE a.prompt_characters END AS prompt_characters,
           s.kind, s.treatment_id, s.agrees, s.correct AS shadow_correct,
           s.forced_tokens + s.thinking_tokens + s.answer_tokens + s.probe_tokens + s.overrun_tokens AS shadow_tokens
    FROM picked a
    LEFT JOIN experiments_completion c ON c.id = a.id
    LEFT JOIN experiments_label l ON l.admission_id = a.id AND l.source = %(source)s
         AND (%(grading)s = '' OR l.grading IN (%(grading)s, 'person/1'))
        AND (l.source <> 'audit' OR a.audited)
    LEFT JOIN experiments_label x ON x.admission_id = a.id AND x.source = %(proxy)s
    LEFT JOIN experiments_label f ON f.admission_id = a.id AND f.source = 'feedback'
    LEFT JOIN experiments_exposure e ON e.admission_id = a.id
    LEFT JOIN experiments_shadowrun s ON s.admission_id = a.id AND s.state = 'answered'
    LEFT JOIN experiments_countedrequest k ON k.id = a.id
    WHERE c.id IS NOT NULL OR a.deadline_at <= %(lost_before)s
)
SELECT id, variant_id, unit_hash, segment, treatment_id, counted, history, latency_seconds,
       1 AS completions,
       (outcome = 'answered')::int AS answered, (outcome = 'error')::int AS error,
       (outcome = 'timeout')::int AS timeout, (outcome = 'cancelled')::int AS cancelled,
       coalesce(thinking_tokens, 0) AS thinking, coalesce(answer_tokens, 0) AS answer,
       coalesce(probe_tokens, 0) AS probe, coalesce(overrun_tokens, 0) AS overrun,
       (outcome = 'answered' AND answer = '' AND NOT answer_removed)::int AS empty,
       (outcome = 'answered' AND finish_reason = 'length')::int AS truncated,
       (deliveries > 1)::int AS retried,
       (%(slow_after)s::float8 IS NOT NULL
        AND (outcome = 'timeout' OR coalesce(latency_seconds > %(slow_after)s::float8, false)))::int AS slow,
       due, (correct IS NOT NULL)::int AS labelled,
       coalesce(correct, 0) AS correct_answers,
       CASE WHEN correct IS NULL THEN 0 ELSE proxy END AS labelled_proxy, proxy,
       (feedback IS NOT NULL)::int AS feedback, coalesce(feedback < {_UNDECIDED}, false)::int AS negative,
       prompt_characters, (enforcement_failures <> '')::int AS unenforced,
       CASE WHEN outcome = 'answered' THEN due ELSE 0 END AS due_answered,
       (outcome = 'answered' AND correct IS NOT NULL)::int AS labelled_answered,
       0 AS late, 0 AS corrected,  -- from the request's history
       (kind IS NOT NULL)::int AS pairs, (NOT coalesce(agrees, true))::int AS disagreements,
       (graded.yes)::int AS graded,
       (graded.yes AND control_right AND treatment_right)::int AS both_right,
       (graded.yes AND control_right AND NOT treatment_right)::int AS only_control,
       (graded.yes AND treatment_right AND NOT control_right)::int AS only_treatment,
       coalesce(CASE kind WHEN 'continue' THEN shadow_tokens WHEN 'probe' THEN own END, 0) AS control_tokens,
       coalesce(CASE kind WHEN 'continue' THEN own WHEN 'probe' THEN shadow_tokens END, 0) AS treatment_tokens
FROM known,
LATERAL (SELECT kind IS NOT NULL AND correct IS NOT NULL AND shadow_correct IS NOT NULL AS yes) graded,
LATERAL (SELECT CASE kind WHEN 'continue' THEN shadow_correct ELSE correct = 1 END AS control_right,
                CASE kind WHEN 'continue' THEN correct = 1 ELSE shadow_correct END AS treatment_right,
                thinking_tokens + answer_tokens + probe_tokens + overrun_tokens AS own) pair
ORDER BY admitted_at, id
"""

# An admission may reach the database after the look that counted its neighbours, or be counted anew while it is
# decoded: what has not ended waits for its turn.
_DEFER = """
INSERT INTO experiments_recount (admission_id, phase_id)
SELECT a.id, a.phase_id FROM experiments_admission a LEFT JOIN experiments_completion c ON c.id = a.id
WHERE a.phase_id = %s AND a.admitted_at >= %s AND a.admitted_at < %s AND c.id IS NULL AND a.deadline_at > %s
ON CONFLICT DO NOTHING
"""
_TAKE_CHANGED = """
DELETE FROM experiments_recount WHERE admission_id IN (
    SELECT r.admission_id FROM experiments_recount r
    JOIN experiments_admission a ON a.id = r.admission_id
    LEFT JOIN experiments_completion c ON c.id = a.id
    WHERE r.phase_id = %s AND (c.id IS NOT NULL OR a.deadline_at <= %s) LIMIT %s
) RETURNING admission_id
"""


@dataclass(frozen=True, slots=True)
class Window:
    """Requests of a phase admitted in [since, until).

    Attributes:
        lost_before: a request without an ending is lost when its deadline is before.
    """

    phase: Phase
    since: datetime
    until: datetime
    lost_before: datetime


@dataclass(frozen=True, slots=True)
class CountedRow:
    """Whose request it is, and what does not add up.

    Attributes:
        pair_treatment_id: the treatment that its shadow run compares, or None.
        latency_seconds: None without an answer.
        is_new: whether it is counted for the first time.
    """

    id: str
    variant_id: int
    unit_hash: str
    segment: str
    pair_treatment_id: int | None
    latency_seconds: float | None
    is_new: bool


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests in order of admission.

    Attributes:
        rows: k requests.
        values: shape (k, len(COLUMNS)), what each adds now.
        before: the same as it was counted before; zeros for what is new.
        history: shape (k,), flags of `History`, this count included.
        past: the same without this count.
    """

    rows: tuple[CountedRow, ...]
    values: NDArray[np.int64]
    before: NDArray[np.int64]
    history: NDArray[np.int64]
    past: NDArray[np.int64]

    @property
    def differences(self) -> NDArray[np.int64]:
        return self.values - self.before

    def column(self, name: str) -> NDArray[np.int64]:
        """One column of ``values``, shape (k,)."""
        return self.values[:, COLUMNS.index(name)]

    def entering(self, name: str) -> NDArray[np.bool_]:
        """Which requests have this 0/1 column (completions, labelled or feedback) set for the first time ever."""
        entering: NDArray[np.bool_] = (self.column(name) > 0) & (self.past & _ENTERS_BY[name] == 0)
        return entering


def take_changed(window: Window, limit: int) -> list[str]:
    """Counted requests that changed since and have ended; they are not marked any more."""
    phase = window.phase.pk
    with connection.cursor() as cursor:
        cursor.execute(_DEFER, [phase, window.since, window.until, window.lost_before])
        cursor.execute(_TAKE_CHANGED, [phase, window.lost_before, limit])
        return [row[0] for row in cursor.fetchall()]


def read(experiment: Experiment, window: Window, changed: Sequence[str]) -> Batch:
    """The ended requests of the window, and those that changed, in order of admission."""
    parameters: dict[str, Any] = {
        "phase": window.phase.pk,
        "since": window.since,
        "until": window.until,
        "lost_before": window.lost_before,
        "changed": list(changed),
        "source": experiment.estimand_source,
        "grading": window.phase.grading,
        "proxy": experiment.proxy_source,
        "slow_after": slow_after(experiment.guardrails),
    }
    with connection.cursor() as cursor:
        cursor.execute(_READ, parameters)
        found = cursor.fetchall()
    values = np.zeros((len(found), len(COLUMNS)), dtype=np.int64)
    before = np.zeros_like(values)
    past = np.zeros(len(found), dtype=np.int64)
    rows = []
    for i, (key, variant, unit, segment, treatment, counted, history, latency, *columns) in enumerate(found):
        values[i], past[i] = columns, history
        # A rebuild leaves the history of a request whose values it has emptied.
        if counted:
            before[i] = counted
        rows.append(CountedRow(key, variant, unit, segment, treatment, latency, not counted))
    return Batch(tuple(rows), values, before, _remember(values, past), past)


def _remember(values: NDArray[np.int64], past: NDArray[np.int64]) -> NDArray[np.int64]:
    """The history with this count; writes the columns late and corrected of ``values``."""

    def column(name: str) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = values[:, COLUMNS.index(name)] > 0
        return found

    labelled, right = column("labelled"), column("correct")
    first = labelled & (past & History.LABELLED == 0)
    late = first & (past & History.COUNTED > 0)
    history = past | History.COUNTED
    for flag, where in (
        (History.LABELLED, first),
        (History.RIGHT, first & right),
        (History.LATE, late),
        (History.FEEDBACK, column("feedback")),
    ):
        history |= np.where(where, int(flag), 0)
    # A lost request counts as wrong where a label is due; with an answer after all it may have no label any more.
    as_it_was = labelled & (right == (history & History.RIGHT > 0))
    values[:, COLUMNS.index("late")] = history & History.LATE > 0
    values[:, COLUMNS.index("corrected")] = (history & History.LABELLED > 0) & ~as_it_was
    return history


def store(phase: Phase, batch: Batch) -> None:
    """Keep what was counted of each request."""
    changed = (np.any(batch.differences != 0, axis=1) | (batch.history != batch.past)).tolist()
    lines = (
        f"{row.id}\t{phase.pk}\t{{{','.join(map(str, values.tolist()))}}}\t{history}\n"
        for row, values, history, keep in zip(batch.rows, batch.values, batch.history.tolist(), changed, strict=True)
        if keep
    )
    columns = ("id", "phase_id", "values", "history")
    upsert(CountedRequest._meta.db_table, columns, ("id",), ("values", "history"), lines)
