"""Accumulators: what looks read in place of the traffic.

Each request is counted once, when it is old enough; a late label or a correction changes its unit's totals by
the difference. Totals by unit make moments by arm, so that a look costs the same however long the experiment
has run, and units with many requests stay one observation each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from django.db import connection, transaction
from numpy.typing import NDArray

from experiments.models import ArmMoments, CountedRequest, Experiment, Phase, Recount, UnitTotals
from experiments.services import counted_requests, processes, sketches
from experiments.services.recounting import hold_grading_lock
from experiments.services.staging import upsert
from experiments.statistics.columns import PAIR_COLUMNS, REQUEST_COLUMNS, UNIT_COLUMNS, UNIT_MARKS
from experiments.statistics.moments import UnitMoments

CHUNK = 20_000
# Cohorts of an arm's requests: all, those of one segment, and shadow runs.
ALL, SEGMENT, PAIRS = "", "segment:", "pairs"

_START_OF_TIME = datetime(1970, 1, 1, tzinfo=UTC)
_NEXT = """
SELECT admitted_at FROM experiments_admission
WHERE phase_id = %s AND admitted_at >= %s AND admitted_at < %s ORDER BY admitted_at OFFSET %s LIMIT 1
"""


def count_until(
    experiment: Experiment,
    phase: Phase,
    cutoff: datetime,
    lost_before: datetime,
    after_chunk: Callable[[], None] | None = None,
) -> None:
    """Count the requests admitted before ``cutoff``, and recount what changed since it was counted.

    In chunks of one transaction each, so that the ledger writer never waits for long; whoever is killed in
    between leaves whole chunks behind, and the next call goes on from there.

    Args:
        experiment: whose labels, proxies and guardrails are declared there.
        phase: of it.
        cutoff: admission time up to which requests are counted.
        lost_before: a request without an ending whose deadline is before counts as lost; one whose deadline is
            not is left for later.
        after_chunk: called after each chunk but the last.
    """
    while _count_chunk(experiment, phase, cutoff, lost_before):
        if after_chunk is not None:
            after_chunk()


def rebuild(experiment: Experiment, phase: Phase, lost_before: datetime) -> None:
    """Count a phase again from its requests, completions and labels, up to where it was counted.

    The state of tests that depend on the order of their data is kept, and so is each request's history: what came when
    cannot be told any more.
    """
    with transaction.atomic():
        _lock(phase)
        until = phase.counted_until
        if until is None:
            return
        # Labels that wait to be counted came after their requests: with the rest they would be counted at their places.
        while _count_chunk(experiment, phase, until, lost_before):
            pass
        for table in (UnitTotals, ArmMoments, Recount):
            table.objects.filter(phase=phase).delete()
        CountedRequest.objects.filter(phase=phase).update(values=[])
        phase.counted_until = None
        phase.save(update_fields=["counted_until"])
        while _count_chunk(experiment, phase, until, lost_before):
            pass


def load_moments(phase: Phase) -> dict[tuple[int, str], UnitMoments]:
    """The moments of a phase by variant and cohort."""
    rows = ArmMoments.objects.filter(phase=phase)
    return {(row.variant_id, row.cohort): _decode(row.moments) for row in rows}


@transaction.atomic
def _count_chunk(experiment: Experiment, phase: Phase, cutoff: datetime, lost_before: datetime) -> bool:
    """Count at most CHUNK new requests, or all that share one moment; False when nothing is left to do."""
    _lock(phase)
    since = phase.counted_until or _START_OF_TIME
    until, more = _chunk_end(phase, since, max(cutoff, since))
    window = counted_requests.Window(phase, since, until, lost_before)
    changed = counted_requests.take_changed(window, CHUNK)
    batch = counted_requests.read(experiment, window, changed)
    _apply(phase, batch)
    sketches.update(phase, batch)
    processes.advance(experiment, phase, batch)
    phase.counted_until = until
    phase.save(update_fields=["counted_until"])
    return more or len(changed) == CHUNK


def _lock(phase: Phase) -> None:
    hold_grading_lock()
    phase.refresh_from_db(from_queryset=Phase.objects.select_for_update())


def _chunk_end(phase: Phase, since: datetime, cutoff: datetime) -> tuple[datetime, bool]:
    with connection.cursor() as cursor:
        for offset in (CHUNK, 2 * CHUNK, 4 * CHUNK):
            cursor.execute(_NEXT, [phase.pk, since, cutoff, offset])
            row = cursor.fetchone()
            if row is None:
                return cutoff, False
            if row[0] > since:
                return row[0], True
    return cutoff, False


# -- totals and moments ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Change:
    """Totals of the units of one arm's cohort, before and after, one row per unit."""

    units: tuple[str, ...]
    before: NDArray[np.int64]
    after: NDArray[np.int64]


def _apply(phase: Phase, batch: counted_requests.Batch) -> None:
    """Carry a batch's differences into totals and moments."""
    differences = _differences(batch)
    if differences:
        stored = _stored_totals(phase, differences)
        changes = {key: _change(key, rows, stored) for key, rows in differences.items()}
        _store_totals(phase, changes)
        for key, change in changes.items():
            _store_moments(phase, key, change)
    counted_requests.store(phase, batch)


_Rows = dict[str, NDArray[np.int64]]


def _differences(batch: counted_requests.Batch) -> dict[tuple[int, str], _Rows]:
    """What changed by variant and cohort, and by unit."""
    found: dict[tuple[int, str], _Rows] = {}

    def add(variant_id: int, cohort: str, unit: str, difference: NDArray[np.int64]) -> None:
        rows = found.setdefault((variant_id, cohort), {})
        rows[unit] = rows[unit] + difference if unit in rows else difference

    for row, difference in zip(batch.rows, batch.differences, strict=True):
        request, pair = np.split(difference, [len(REQUEST_COLUMNS)])
        if request.any():
            add(row.variant_id, ALL, row.unit_hash, request)
            if row.segment:
                add(row.variant_id, SEGMENT + row.segment, row.unit_hash, request)
        if pair.any() and row.pair_treatment_id is not None:
            add(row.pair_treatment_id, PAIRS, row.unit_hash, pair)
    return found


def _stored_totals(phase: Phase, keys: Mapping[tuple[int, str], _Rows]) -> dict[tuple[int, str, str], list[int]]:
    wanted = [(variant, cohort, unit) for (variant, cohort), rows in keys.items() for unit in rows]
    variants, cohorts, units = zip(*wanted, strict=True)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT t.variant_id, t.cohort, t.unit_hash, t.totals FROM experiments_unittotals t "
            "JOIN unnest(%s::bigint[], %s::text[], %s::text[]) AS w (variant_id, cohort, unit_hash) "
            "ON t.variant_id = w.variant_id AND t.cohort = w.cohort AND t.unit_hash = w.unit_hash "
            "WHERE t.phase_id = %s",
            [list(variants), list(cohorts), list(units), phase.pk],
        )
        return {(variant, cohort, unit): totals for variant, cohort, unit, totals in cursor.fetchall()}


def _change(key: tuple[int, str], rows: _Rows, stored: Mapping[tuple[int, str, str], list[int]]) -> _Change:
    width = len(columns_of(key[1]))
    before = np.zeros((len(rows), width), dtype=np.int64)
    after = np.zeros((len(rows), width), dtype=np.int64)
    for i, (unit, difference) in enumerate(rows.items()):
        before[i] = stored.get((*key, unit), 0)
        after[i, : difference.size] = before[i, : difference.size] + difference
    if key[1] != PAIRS:
        for mark, of in UNIT_MARKS.items():
            after[:, UNIT_COLUMNS.index(mark)] = after[:, UNIT_COLUMNS.index(of)] > 0
    return _Change(tuple(rows), before, after)


def columns_of(cohort: str) -> tuple[str, ...]:
    """The columns of a cohort's totals and moments."""
    return PAIR_COLUMNS if cohort == PAIRS else UNIT_COLUMNS


def _store_totals(phase: Phase, changes: Mapping[tuple[int, str], _Change]) -> None:
    lines = (
        f"{phase.pk}\t{variant}\t{cohort}\t{unit}\t{_array(totals)}\n"
        for (variant, cohort), change in changes.items()
        for unit, totals in zip(change.units, change.after, strict=True)
    )
    key = ("phase_id", "variant_id", "cohort", "unit_hash")
    upsert(UnitTotals._meta.db_table, (*key, "totals"), key, ("totals",), lines)


def _store_moments(phase: Phase, key: tuple[int, str], change: _Change) -> None:
    columns, known = columns_of(key[1]), change.before.any(axis=1)
    before = UnitMoments.from_totals(columns, change.before[known])
    after = UnitMoments.from_totals(columns, change.after[change.after.any(axis=1)])
    row, _ = ArmMoments.objects.get_or_create(
        phase=phase, variant_id=key[0], cohort=key[1], defaults={"moments": _encode(UnitMoments.empty(columns))}
    )
    # Added before taken away: in between, no square may be negative.
    row.moments = _encode(_decode(row.moments) + after - before)
    row.save(update_fields=["moments"])


def _encode(moments: UnitMoments) -> dict[str, Any]:
    # jsonb holds integers of any size exactly, and so does Python.
    return {
        "columns": list(moments.columns),
        "units": moments.units,
        "sums": list(moments.sums),
        "products": list(moments.products),
    }


def _decode(data: Mapping[str, Any]) -> UnitMoments:
    return UnitMoments(tuple(data["columns"]), data["units"], tuple(data["sums"]), tuple(data["products"]))


def _array(values: NDArray[np.int64]) -> str:
    return "{" + ",".join(map(str, values.tolist())) + "}"
