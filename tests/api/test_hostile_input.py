"""Input that no client of good will sends: wrong types of content, numbers beyond every column, broken text."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from experiments.api import api
from experiments.models import Experiment, UseCase
from experiments.services.experiments import VariantSpec, create_experiment
from experiments.services.registry import issue_api_key

pytestmark = pytest.mark.usefixtures("redis_client", "fresh_routing")
Ask = Callable[..., Any]
HUGE = ["x", -1, 0, 2**31, 2**63 - 1, 2**63, 2**64, 10**30, "9" * 4_301]
BODIES = [b"", b"\x00", b"\xff\xfe", b"null", b"[]", b"3", b'"x"', b"{", b"NaN", b'{"name": Infinity}', b"[" * 100_000]
KINDS = ["application/json", "application/x-ndjson", "text/csv", "multipart/form-data", ""]
TEXTS = ["\\u0000", "\\ud800", "\\udfff\\ud800", "x" * 100_000, "", "\\uffff"]
VALUES = [
    *(form % text for text in TEXTS for form in ('"%s"', '["%s"]', '{"a": "%s"}')),
    *("1e400", "-1", str(10**40), "null", "true", '[{"metric": "x\\u0000"}]'),
]


def _operations() -> list[tuple[str, str]]:
    paths = api.get_openapi_schema()["paths"]
    return [(path.removeprefix("/api/v1"), method) for path, methods in paths.items() for method in methods]


def _body_fields(path: str, method: str) -> list[str]:
    """The fields of the body of an operation that takes JSON."""
    schema = api.get_openapi_schema()
    body = schema["paths"][f"/api/v1{path}"][method]["requestBody"]["content"]["application/json"]["schema"]
    if "$ref" in body:
        body = schema["components"]["schemas"][body["$ref"].rpartition("/")[2]]
    return list(body["properties"])


# What else a body needs to be valid.
FITTING: dict[str, dict[str, Any]] = {
    "/keys": {"name": "ci", "scopes": ["label"]},
    "/labels": {"completion_id": "a", "reference": "42"},
    "/completions": {"id": "a", "outcome": "answered", "answer": "42"},
}
# Bodies that a check of the body lets pass, so that the id is what is wrong.
FITTING_ITS_ID: dict[str, bytes] = {
    "/experiments/{experiment_id}/coverage": b'{"coverage": 0.5}',
    "/experiments/{experiment_id}/forced-variants": b'{"variant": "short"}',
}
WITH_ID = [found for found in _operations() if "{" in found[0]]
WITH_BODY = [found for found in _operations() if found[1] in ("post", "patch")]


@pytest.fixture
def draft(use_case: UseCase) -> Experiment:
    """An experiment that may be changed."""
    arms = [
        VariantSpec("full", {"name": "full"}, use_case.checkpoint, 0.5, is_control=True),
        VariantSpec("short", {"name": "confidence", "parameters": {"threshold": 0.9}}, use_case.checkpoint, 0.5),
    ]
    return create_experiment("ada", use_case, "Early exit", arms)


@pytest.fixture
def ask(client: Client, use_case: UseCase, draft: Experiment) -> Ask:
    """Sends a body to an operation, with a key that may do everything; ids are the draft's."""
    token = issue_api_key("ada", "key", use_case, ["serve", "label", "manage"]).token

    def send(path: str, method: str, body: bytes, kind: str = "application/json") -> Any:
        where = "/api/v1" + path.replace("{experiment_id}", str(draft.pk))
        return client.generic(method.upper(), where, body, kind, headers={"authorization": f"Bearer {token}"})

    return send


@pytest.mark.parametrize(("path", "method"), WITH_ID)
def test_no_experiment_or_key_has_an_id_beyond_every_column(ask: Ask, path: str, method: str) -> None:
    for number in HUGE:
        where = path[: path.index("{")] + str(number) + path[path.index("}") + 1 :]
        assert ask(where, method, b"{}").status_code in (404, 422), where[:40]


@pytest.mark.parametrize(("path", "method"), WITH_BODY)
def test_what_is_no_body_is_refused(ask: Ask, path: str, method: str) -> None:
    for kind, body in itertools.product(KINDS, BODIES):
        answer = ask(path, method, body, kind)
        found = json.loads(answer.content)
        if answer.status_code == 200:  # of JSON lines each is refused alone
            assert (kind, found["accepted"], found["refused"]) == ("application/x-ndjson", 0, 1), body[:20]
        else:
            assert 400 <= answer.status_code < 500, (kind, body[:20])
            assert isinstance(found["detail"], str), (kind, body[:20])


@pytest.mark.parametrize(("path", "method"), WITH_BODY)
def test_no_value_of_any_field_breaks_anything(ask: Ask, path: str, method: str) -> None:
    for field, value in itertools.product(_body_fields(path, method), VALUES):
        rest = {name: fit for name, fit in FITTING.get(path, {}).items() if name != field}
        body = "{" + ", ".join([f'"{field}": {value}', *(f'"{n}": {json.dumps(fit)}' for n, fit in rest.items())]) + "}"
        answer = ask(path, method, body.encode())
        assert answer.status_code < 500, (field, value[:40], answer.content)
