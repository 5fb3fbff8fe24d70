"""POST /api/v1/labels."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from experiments.grading import MathVerify
from experiments.models import Admission, Completion, Label, ModelProfile, UseCase
from experiments.services.judging import judges
from experiments.services.registry import issue_api_key, revoke_api_key
from tests.api.conftest import Call

JSON, JSONL = "application/json", "application/x-ndjson"


@pytest.fixture
def stored(use_case: UseCase) -> None:
    """Completions a and b, both answered 42."""
    now = timezone.now()
    for number in ("a", "b"):
        Admission.objects.create(
            id=number,
            use_case=use_case,
            checkpoint=use_case.checkpoint,
            policy={"name": "full"},
            policy_version="v1",
            admitted_at=now,
            deadline_at=now,
        )
        Completion.objects.create(id=number, outcome="answered", answer="42", completed_at=now)


def line(number: str = "a", reference: str = "42", **more: Any) -> str:
    return json.dumps({"completion_id": number, "reference": reference, **more})


def post(call: Call, body: str, kind: str = JSON, scopes: list[str] | None = None) -> Any:
    return call("POST", "/labels", scopes=scopes or ["label"], data=body, content_type=kind)


def refused(answer: Any) -> tuple[int, str, str]:
    assert not Label.objects.exists()
    body = json.loads(answer.content)
    return answer.status_code, body["field"], body["detail"]


def test_one_label_is_stored_and_graded(call: Call, stored: None) -> None:
    answer = post(call, line())
    assert (answer.status_code, json.loads(answer.content)) == (200, {"stored": 1, "graded": 1, "failed": []})
    assert Label.objects.get().correct is True


def test_a_grader_that_times_out_says_so(
    call: Call, use_case: UseCase, stored: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MathVerify, "timeout_seconds", 0.5)
    ModelProfile.objects.update(grader="math_verify")
    Completion.objects.filter(pk="b").update(answer="9^{9^{9^{9}}}")
    try:
        answer = post(call, f"{line('a', '84/2')}\n{line('b', '1')}", JSONL)
    finally:
        judges().close()
    said = "math_verify timed out after 0.5 seconds"
    failed = [{"completion_id": "b", "source": "reference", "failure": "timeout", "detail": said}]
    assert (answer.status_code, json.loads(answer.content)) == (200, {"stored": 2, "graded": 1, "failed": failed})
    assert dict(Label.objects.values_list("admission_id", "correct")) == {"a": True, "b": None}


def test_a_reference_that_its_grader_cannot_use_is_refused(call: Call, use_case: UseCase, stored: None) -> None:
    ModelProfile.objects.update(grader="numeric")
    expected = (422, "reference", "labels[2].reference must be a number, got 'many'")
    assert refused(post(call, f"{line()}\n{line('b', 'many')}", JSONL)) == expected


def test_one_label_may_span_lines(call: Call, stored: None) -> None:
    assert post(call, '{\n "completion_id": "a",\n "reference": "42"\n}').status_code == 200


@pytest.mark.parametrize("kind", [JSONL, "application/jsonl", "application/x-jsonlines", f"{JSONL}; charset=utf-8"])
def test_many_labels_come_as_json_lines(call: Call, stored: None, kind: str) -> None:
    answer = post(call, f"{line('a')}\n\n{line('b', '41')}\r\n", kind)
    assert (answer.status_code, json.loads(answer.content)) == (200, {"stored": 2, "graded": 2, "failed": []})
    assert dict(Label.objects.values_list("admission_id", "correct")) == {"a": True, "b": False}


@pytest.mark.parametrize(
    ("bad", "field", "detail"),
    [
        ("{", "body", "labels[2].body: Invalid JSON"),
        ("3", "body", "labels[2].body: Input should be an object"),
        ('{"completion_id": "b"}', "reference", "labels[2].reference must not be empty, got None"),
        ('{"completion_id": "b", "reference": 42}', "reference", "labels[2].reference: Input should be a valid string"),
        (line("b", grade="A"), "grade", "labels[2].grade: Extra inputs are not permitted"),
        (line("b", " "), "reference", "labels[2].reference must not be empty, got ' '"),
        (line("b", "4\x002"), "reference", "labels[2].reference must not hold the character NUL"),
        (line("b\x00"), "completion_id", "labels[2].completion_id must not hold the character NUL"),
        (line("zzz"), "completion_id", "completion_id 'zzz' is unknown (1 of 2 are)"),
        ('{"completion_id": "b", "reference": "\\ud800"}', "body", "labels[2].body: Invalid JSON"),
    ],
)
def test_one_bad_line_stores_nothing(call: Call, stored: None, bad: str, field: str, detail: str) -> None:
    status, found, message = refused(post(call, f"{line()}\n{bad}", JSONL))
    assert (status, found) == (422, field)
    assert message.startswith(detail)


@pytest.mark.parametrize("body", [" ", "\n\n"])
def test_no_line_at_all_is_refused(call: Call, body: str) -> None:
    assert refused(post(call, body, JSONL)) == (422, "labels", "labels must be from 1 to 100000 in a request, got 0")


def test_another_content_type_is_refused(call: Call, stored: None) -> None:
    status, field, detail = refused(post(call, line(), "text/csv"))
    assert (status, field) == (422, "content-type")
    assert detail == "content-type must be application/json or application/x-ndjson, got 'text/csv'"


@pytest.mark.parametrize("scopes", [["serve"], ["manage"], ["serve", "manage"]])
def test_a_key_without_the_scope_is_refused(call: Call, stored: None, scopes: list[str]) -> None:
    answer = post(call, line(), scopes=scopes)
    assert (answer.status_code, json.loads(answer.content)) == (403, {"detail": "this API key lacks the scope 'label'"})
    assert not Label.objects.exists()


def test_without_a_key_nothing_is_stored(call: Call, stored: None) -> None:
    assert call("POST", "/labels", scopes=None, data=line(), content_type=JSON).status_code == 401
    assert not Label.objects.exists()


@pytest.mark.parametrize("authorization", ["Bearer ck_wrong", "Bearer ", "Basic YTpi", "ck_wrong"])
def test_a_wrong_key_is_refused(client: Client, stored: None, authorization: str) -> None:
    answer = client.post("/api/v1/labels", line(), content_type=JSON, headers={"authorization": authorization})
    assert answer.status_code == 401
    assert not Label.objects.exists()


def test_a_revoked_key_is_refused(client: Client, use_case: UseCase, stored: None) -> None:
    issued = issue_api_key("ada", "key", use_case, ["label"])
    revoke_api_key("ada", issued.key)
    headers = {"authorization": f"Bearer {issued.token}"}
    assert client.post("/api/v1/labels", line(), content_type=JSON, headers=headers).status_code == 401
