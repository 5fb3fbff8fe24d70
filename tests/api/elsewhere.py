"""Helpers of the tests of serving elsewhere: assigning over the API, and the ledger's records."""

from __future__ import annotations

import json
from typing import Any

import redis

from experiments import wire
from experiments.services.ledger import ingest
from experiments.services.sealing import unseal
from experiments.wire import AdmissionRecord
from tests.api.conftest import Call

JSON, JSONL = "application/json", "application/x-ndjson"


def assign(call: Call, scopes: list[str] | None = None, **body: Any) -> Any:
    """The answer to an assignment's request."""
    return call("POST", "/assignments", scopes=scopes or ["serve"], data=json.dumps(body), content_type=JSON)


def assigned(call: Call, **body: Any) -> dict[str, Any]:
    """A new assignment."""
    answer = assign(call, **body)
    assert answer.status_code == 201, answer.content
    found: dict[str, Any] = json.loads(answer.content)
    return found


def recorded(client: redis.Redis) -> list[AdmissionRecord]:
    """The admissions in the ledger's stream."""
    entries: Any = client.xrange(wire.LEDGER_STREAM)
    return [AdmissionRecord.decode(unseal(fields[wire.PAYLOAD])) for _, fields in entries]


def write_ledger(client: redis.Redis) -> None:
    """Do the ledger writer's work: what is in the stream goes into the database."""
    ingest(recorded(client), [])
    client.delete(wire.LEDGER_STREAM)


def line(number: str, **more: Any) -> str:
    """An answered completion as JSON."""
    return json.dumps({"id": number, "outcome": "answered", "answer": "42", **more})


def post(call: Call, body: str | bytes, kind: str = JSONL, scopes: list[str] | None = None) -> Any:
    """The answer to posted completions."""
    return call("POST", "/completions", scopes=scopes or ["serve"], data=body, content_type=kind)


def report(answer: Any) -> tuple[int, int, int]:
    """What was accepted, a duplicate and refused."""
    assert answer.status_code == 200, answer.content
    body = json.loads(answer.content)
    return body["accepted"], body["duplicates"], body["refused"]
