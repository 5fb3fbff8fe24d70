"""JSON or JSON lines in the body of a request, and reading the lines without holding them all."""

from __future__ import annotations

from collections.abc import Iterator

from django.http import HttpRequest

from experiments.services.errors import InvalidInput

JSON_LINES = ("application/x-ndjson", "application/jsonl", "application/x-jsonlines")


def is_single(request: HttpRequest) -> bool:
    """Whether the body is one JSON object; False: JSON lines. InvalidInput where it is neither."""
    kind = request.content_type
    if kind == "application/json":
        return True
    if kind in JSON_LINES:
        return False
    raise InvalidInput(f"content-type must be application/json or application/x-ndjson, got {kind!r}", "content-type")


def read_lines(request: HttpRequest, max_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """The lines that are not blank, with their numbers from 1; None in place of one that is longer than allowed."""
    number = 0
    while line := request.readline(max_bytes + 1):
        number += 1
        if len(line) > max_bytes and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = request.readline(max_bytes)
            yield number, None
        elif line.strip():
            yield number, line
