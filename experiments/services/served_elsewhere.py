"""Taking in completions that were served elsewhere: line by line, stored in batches of one transaction each.

The records go through the ledger as a gateway's do: a completion is stored once whatever is posted how often, and
before its assignment if that is still on its way.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

from django.db import Error, transaction

from experiments.models import Checkpoint, Completion, UseCase
from experiments.services.assigned_ids import read_id
from experiments.services.errors import InvalidInput
from experiments.services.labels import NewLabel, store_labels
from experiments.services.ledger import ingest
from experiments.services.posted_completions import label_of, parse, record_of
from experiments.wire import CompletionRecord

logger = logging.getLogger(__name__)
BATCH_LINES = 1_000
BATCH_BYTES = 8 << 20
MAX_ERRORS = 100


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a post.

    Attributes:
        number: from 1.
        content: None where the line is longer than allowed.
    """

    number: int
    content: bytes | None


@dataclass(frozen=True, slots=True)
class RefusedLine:
    """A line of which nothing is stored, and why."""

    line: int
    field: str
    detail: str


@dataclass(slots=True)
class Report:
    """What became of a post.

    Attributes:
        accepted: completions stored.
        duplicates: completions that were stored before, or came earlier in the post; nothing was changed.
        refused: lines that hold no valid completion.
        errors: of the first refused lines.
        failed_at: the first line of the batch that the database could not store; it and what follows was not
            stored. None: all was read.
    """

    accepted: int = 0
    duplicates: int = 0
    refused: int = 0
    errors: list[RefusedLine] = field(default_factory=list)
    failed_at: int | None = None

    def refuse(self, line: int, error: InvalidInput) -> None:
        """Count a line as refused."""
        self.refused += 1
        if len(self.errors) < MAX_ERRORS:
            self.errors.append(RefusedLine(line, error.field, str(error)))


@dataclass(frozen=True, slots=True)
class _Valid:
    line: int
    record: CompletionRecord
    label: NewLabel | None


class Intake:
    """Takes in the lines of one post.

    Args:
        use_case_id: completions of other use cases count as unknown.
        may_label: whether lines may have labels.
        max_line_bytes: for the message on longer lines.
    """

    def __init__(self, use_case_id: int, *, may_label: bool, max_line_bytes: int) -> None:
        self.report = Report()
        self._use_case_id = use_case_id
        self._may_label = may_label
        self._max_line_bytes = max_line_bytes
        self._patterns: dict[int, str] | None = None
        self._kept: str | None = None

    def take(self, lines: Iterable[Line]) -> Report:
        """Store the completions of the lines.

        A failing database ends it: what the batches before stored stays, so the same lines can be posted again.
        """
        batch: list[_Valid] = []
        size = first = 0
        try:
            for line in lines:
                first = first or line.number
                valid = self._validated(line)
                if valid is not None:
                    batch.append(valid)
                size += len(line.content or b"")
                if len(batch) >= BATCH_LINES or size >= BATCH_BYTES:
                    self._store(batch)
                    batch, size, first = [], 0, 0
            self._store(batch)
        except Error:
            logger.exception("posted completions could not be stored from line %d on", first)
            self.report.failed_at = first
        return self.report

    def _validated(self, line: Line) -> _Valid | None:
        try:
            if line.content is None:
                raise InvalidInput(f"a line must have at most {self._max_line_bytes} bytes, got more", "body")
            return self._valid(line.number, line.content)
        except InvalidInput as error:
            self.report.refuse(line.number, error)
            return None

    def _valid(self, number: int, content: bytes) -> _Valid:
        posted = parse(content)
        assigned = read_id(self._use_case_id, posted.id)
        pattern = None if assigned is None else self._answer_patterns().get(assigned.checkpoint_id)
        if assigned is None or pattern is None:
            raise InvalidInput(f"id must be that of an assignment of this key's use case, got {posted.id!r}", "id")
        label = label_of(posted)
        if label is not None and not self._may_label:
            raise InvalidInput("label needs an API key with the scope 'label' too", "label")
        return _Valid(number, record_of(posted, assigned, pattern, self._retention()), label)

    def _answer_patterns(self) -> dict[int, str]:
        """Where answers are, by checkpoint."""
        if self._patterns is None:
            self._patterns = dict(Checkpoint.objects.values_list("pk", "model__answer_pattern"))
        return self._patterns

    def _retention(self) -> str:
        """What is kept of the use case's texts."""
        if self._kept is None:
            self._kept = UseCase.objects.values_list("retention", flat=True).get(pk=self._use_case_id)
        return self._kept

    def _store(self, batch: list[_Valid]) -> None:
        try:
            added = _stored(batch, self._use_case_id)
        except InvalidInput:
            for valid in batch:
                self._store_alone(valid)
            return
        self._count(len(batch), added)

    def _store_alone(self, valid: _Valid) -> None:
        try:
            self._count(1, _stored([valid], self._use_case_id))
        except InvalidInput as error:
            self.report.refuse(
                valid.line, InvalidInput(f"label: {str(error).removeprefix('labels[1].')}", f"label.{error.field}")
            )

    def _count(self, posted: int, added: int) -> None:
        self.report.accepted += added
        self.report.duplicates += posted - added


@transaction.atomic
def _stored(batch: list[_Valid], use_case_id: int) -> int:
    """Store completions with their labels, all or nothing; how many were new.

    Raises:
        InvalidInput: a label is not allowed, or its assignment is not in the database yet.
    """
    # The first of an id counts, in one post as over several; so a label goes with the line that was stored.
    first = {valid.record.id: valid for valid in reversed(batch)}
    labelled = [pk for pk, valid in first.items() if valid.label is not None]
    known = set(Completion.objects.filter(pk__in=labelled).values_list("pk", flat=True)) if labelled else set()
    added = ingest([], [valid.record for valid in first.values()]).completions
    if labels := [first[pk].label for pk in labelled if pk not in known]:
        store_labels([label for label in labels if label is not None], use_case_id)
    return added
