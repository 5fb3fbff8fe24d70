"""Snapshots for other programs: a table of every number, and the course over time."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from experiments import models

COLUMNS = ("subject", "quantity", "value")


def snapshot_csv(stored: models.Snapshot) -> str:
    """A snapshot as lines of subject, quantity and value.

    The subject is an arm, a treatment or the experiment; the quantity is the path of the number in the JSON form. What
    is not estimable has its reason for a value.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerow(("experiment", "taken_at", stored.taken_at.isoformat()))
    data = stored.data
    for name in ("schema_version", "total_units", "design", "health", "srm"):
        writer.writerows(_lines("experiment", name, data[name]))
    for arm in data["arms"]:
        writer.writerows(_lines(arm["key"], "arm", arm))
    for name in ("comparisons", "details", "guardrails"):
        for item in data[name]:
            writer.writerows(_lines(item["treatment"] or "all arms", name, item))
    writer.writerows(_lines("experiment", "segments", data["segments"]))
    writer.writerow(("experiment", "verdict.decision", data["verdict"]["decision"]))
    for item in data["verdict"]["treatments"]:
        writer.writerows(_lines(item["treatment"], "verdict", item))
    return buffer.getvalue()


def _lines(subject: str, path: str, value: Any) -> Iterator[tuple[str, str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _lines(subject, f"{path}.{key}", item)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _lines(subject, f"{path}[{i}]", item)
    elif value is not None:
        yield subject, path, value


def course(experiment: models.Experiment, limit: int) -> list[dict[str, Any]]:
    """The newest looks, the oldest first: when, which phase, the verdict and each treatment's two contrasts."""
    rows = models.Snapshot.objects.filter(phase__experiment=experiment).select_related("phase")[:limit]
    return [_point(row) for row in reversed(rows)]


def _point(row: models.Snapshot) -> dict[str, Any]:
    return {
        "taken_at": row.taken_at.isoformat(),
        "phase": row.phase.number,
        "total_units": row.data["total_units"],
        "decision": row.data["verdict"]["decision"],
        "treatments": [
            {
                "treatment": item["treatment"],
                "em": item["em"],
                "decoded_tokens": item["decoded_tokens"],
            }
            for item in row.data["comparisons"]
        ],
    }
