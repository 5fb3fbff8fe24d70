"""POST /api/v1/completions: how assigned requests ended that were served elsewhere, one or JSONL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from django.http import HttpRequest
from ninja import Router, Schema
from ninja.responses import Status

from experiments.api.auth import KeyAuth
from experiments.api.json_lines import is_single, read_lines
from experiments.models import ApiKey
from experiments.services.errors import InvalidInput
from experiments.services.posted_completions import PostedCompletion
from experiments.services.served_elsewhere import Intake, Line, Report

router = Router(tags=["serving elsewhere"])
MAX_LINES = 500_000
MAX_LINE_BYTES = 1 << 20


class RefusedLineOut(Schema):
    """A line of which nothing is stored."""

    line: int
    field: str
    detail: str


class CompletionsOut(Schema):
    """How many completions were stored, were known already and were refused, with the first 100 errors."""

    accepted: int
    duplicates: int
    refused: int
    errors: list[RefusedLineOut]


class CutShortOut(CompletionsOut):
    """Not everything was stored; posting all of it again is safe."""

    detail: str


@router.post(
    "",
    auth=KeyAuth("serve"),
    response={200: CompletionsOut, 413: CutShortOut, 503: CutShortOut},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": PostedCompletion.model_json_schema()},
                "application/x-ndjson": {"schema": {"type": "string", "description": "One completion per line."}},
            },
        }
    },
)
def post_completions(request: HttpRequest) -> CompletionsOut | Status[CutShortOut]:
    """Store one completion as JSON, or many as JSONL. Idempotent on the id: what is posted again changes nothing."""
    key: ApiKey = request.auth  # type: ignore[attr-defined]
    intake = Intake(key.use_case_id, may_label=ApiKey.Scope.LABEL in key.scopes, max_line_bytes=MAX_LINE_BYTES)
    if is_single(request):
        return _single(request, intake)
    lines = _Bounded(request)
    report = intake.take(lines)
    if lines.count == 0:
        raise InvalidInput("completions must be at least 1 in a request, got 0", "completions")
    if report.failed_at is not None:
        return _failed(report)
    if lines.cut_at is not None:
        detail = f"a request must have at most {MAX_LINES} lines; nothing from line {lines.cut_at} on was read"
        return Status(413, CutShortOut(detail=detail, **asdict(report)))
    return CompletionsOut(**asdict(report))


def _single(request: HttpRequest, intake: Intake) -> CompletionsOut | Status[CutShortOut]:
    body = request.read(MAX_LINE_BYTES + 1)
    report = intake.take([Line(1, body if len(body) <= MAX_LINE_BYTES else None)])
    if report.failed_at is not None:
        return _failed(report)
    if report.errors:
        raise InvalidInput(report.errors[0].detail, report.errors[0].field)
    return CompletionsOut(**asdict(report))


def _failed(report: Report) -> Status[CutShortOut]:
    detail = f"the database failed; nothing from line {report.failed_at} on was stored; post all lines again"
    return Status(503, CutShortOut(detail=detail, **asdict(report)))


class _Bounded:
    """The lines of a request, at most MAX_LINES of them.

    Attributes:
        count: lines so far that are not blank.
        cut_at: the first line that was not read, if there is one.
    """

    def __init__(self, request: HttpRequest) -> None:
        self._request = request
        self.count = 0
        self.cut_at: int | None = None

    def __iter__(self) -> Iterator[Line]:
        for number, content in read_lines(self._request, MAX_LINE_BYTES):
            if self.count >= MAX_LINES:
                self.cut_at = number
                return
            self.count += 1
            yield Line(number, content)
