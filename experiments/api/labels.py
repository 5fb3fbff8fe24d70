"""POST /api/v1/labels: references, audits, judges' scores and feedback after the fact, one or JSONL."""

from __future__ import annotations

import dataclasses
from typing import Literal

from django.http import HttpRequest
from ninja import Router, Schema
from pydantic import ConfigDict, ValidationError

from experiments.api.auth import KeyAuth
from experiments.api.json_lines import is_single
from experiments.services import labels as service
from experiments.services.errors import InvalidInput
from experiments.services.labels import NewLabel

router = Router(tags=["labels"])
MAX_LABELS = 100_000


class LabelIn(Schema):
    """One label."""

    model_config = ConfigDict(extra="forbid", strict=True)

    completion_id: str
    source: Literal["reference", "audit", "judge", "feedback"] = "reference"
    reference: str | None = None
    correct: bool | None = None
    score: float | None = None


class FailedLabelOut(Schema):
    """A label that is stored but could not be graded: it counts as none until another one replaces it."""

    completion_id: str
    source: str
    failure: Literal["timeout", "reference", "judge"]
    detail: str


class LabelsOut(Schema):
    """How many labels were stored, how many of them are graded already, and those that could not be graded."""

    stored: int
    graded: int
    failed: list[FailedLabelOut]


@router.post(
    "",
    auth=KeyAuth("label"),
    response=LabelsOut,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": LabelIn.model_json_schema()},
                "application/x-ndjson": {"schema": {"type": "string", "description": "One label per line."}},
            },
        }
    },
)
def submit_labels(request: HttpRequest) -> LabelsOut:
    """Submit one label as JSON, or many as JSONL; all are stored, or none and an error names the first bad one."""
    lines = [request.body] if is_single(request) else [line for line in request.body.splitlines() if line.strip()]
    if not 1 <= len(lines) <= MAX_LABELS:
        raise InvalidInput(f"labels must be from 1 to {MAX_LABELS} in a request, got {len(lines)}", "labels")
    use_case_id: int = request.auth.use_case_id  # type: ignore[attr-defined]
    report = service.submit_labels([_label(number, line) for number, line in enumerate(lines, 1)], use_case_id)
    failed = [FailedLabelOut(**dataclasses.asdict(label)) for label in report.failed]
    return LabelsOut(stored=report.stored, graded=report.graded, failed=failed)


def _label(number: int, line: bytes) -> NewLabel:
    try:
        label = LabelIn.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "body"
        raise InvalidInput(f"labels[{number}].{where}: {first['msg']}", where) from error
    return NewLabel(**label.model_dump())
