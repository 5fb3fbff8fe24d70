"""From the ledger stream to PostgreSQL: batches of admissions and completions, each exactly once.

One transaction per batch: COPY into staging tables, INSERT .. ON CONFLICT DO NOTHING RETURNING, labels
for the references that came along. Redelivered records change nothing.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.db import connection, transaction
from django.db.models import Model

from experiments.models import Admission, Completion
from experiments.services.erasure import erase_late
from experiments.services.labels import grade_stored, label_from_admissions
from experiments.services.private_rows import protected, settle
from experiments.services.recounting import hold_grading_lock, mark_changed
from experiments.services.shadow import store_records
from experiments.services.staging import stage
from experiments.wire import AdmissionRecord, CompletionRecord, ShadowRecord

_ADMISSION_COLUMNS = tuple(field.name for field in dataclasses.fields(AdmissionRecord))
_COMPLETION_COLUMNS = tuple(field.name for field in dataclasses.fields(CompletionRecord))

_EXPOSE = """
INSERT INTO experiments_exposure (phase_id, variant_id, unit_hash, admission_id, exposed_at)
SELECT DISTINCT ON (phase_id, unit_hash) phase_id, variant_id, unit_hash, id, admitted_at
FROM stage_admission WHERE phase_id IS NOT NULL AND unit_hash <> ''
ORDER BY phase_id, unit_hash, admitted_at
ON CONFLICT DO NOTHING
"""


@dataclass(frozen=True, slots=True)
class Ingested:
    """What a batch added (redelivered records are not counted)."""

    admissions: int
    completions: int


def ingest(
    admissions: Sequence[AdmissionRecord],
    completions: Sequence[CompletionRecord],
    shadow_runs: Sequence[ShadowRecord] = (),
) -> Ingested:
    """Store a batch.

    Raises:
        django.db.Error: a record does not fit the tables; nothing of the batch is stored.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        admissions, completions = protected(admissions, completions)
        _stage(cursor, "stage_admission", Admission, _ADMISSION_COLUMNS, admissions)
        _stage(cursor, "stage_completion", Completion, _COMPLETION_COLUMNS, completions)
        admitted = _insert(cursor, "stage_admission", Admission._meta.db_table, _ADMISSION_COLUMNS)
        cursor.execute(_EXPOSE)
        completed = _insert(cursor, "stage_completion", Completion._meta.db_table, _COMPLETION_COLUMNS)
        hold_grading_lock()
        changed = [*admitted, *completed]
        erase_late(changed)
        label_from_admissions(admitted)
        # Either side may come first: completions of labels that were waiting, labels of admissions just read.
        grade_stored(changed)
        settle(changed)
        mark_changed([*changed, *store_records(shadow_runs)])
    return Ingested(len(admitted), len(completed))


def _stage(cursor: Any, name: str, model: type[Model], columns: tuple[str, ...], records: Iterable[Any]) -> None:
    stage(cursor, name, model._meta.db_table, columns, _lines(columns, records))


def _lines(columns: tuple[str, ...], records: Iterable[Any]) -> Iterator[str]:
    for record in records:
        yield "\t".join(_cell(name, getattr(record, name)) for name in columns) + "\n"


def _insert(cursor: Any, stage: str, table: str, columns: tuple[str, ...]) -> list[str]:
    names = ", ".join(columns)
    cursor.execute(
        f"INSERT INTO {table} ({names}) SELECT DISTINCT ON (id) {names} FROM {stage} "
        "ON CONFLICT DO NOTHING RETURNING id"
    )
    return [row[0] for row in cursor.fetchall()]


def _cell(name: str, value: Any) -> str:
    """One value in COPY's text format."""
    if value is None:
        return r"\N"
    if value == "":
        return ""
    if name.endswith("_at"):
        return datetime.fromtimestamp(value, UTC).isoformat()
    if type(value) in (int, float):  # most columns, with nothing to escape
        return str(value)
    if isinstance(value, dict | list):
        value = json.dumps(_without_nul(value))
    text = str(_without_nul(str(value)))
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def _without_nul(value: Any) -> Any:
    """The value with U+FFFD for each NUL, which neither text nor jsonb of PostgreSQL holds."""
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd")
    if isinstance(value, dict):
        return {_without_nul(key): _without_nul(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nul(item) for item in value]
    return value
