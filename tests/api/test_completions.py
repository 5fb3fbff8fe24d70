"""POST /api/v1/completions."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from experiments.api import completions
from experiments.models import Admission, Completion, Label, ModelProfile, UseCase
from experiments.services import ledger, served_elsewhere
from experiments.services.registry import change_retention
from tests.api.conftest import Call
from tests.api.elsewhere import JSON, assigned, line, post, report, write_ledger

pytestmark = pytest.mark.usefixtures("redis_client", "fresh_routing")


@pytest.fixture
def ids(call: Call, redis_client: redis.Redis) -> list[str]:
    """Ids of three assignments that are in the database."""
    found = [assigned(call, user="ada")["id"] for _ in range(3)]
    write_ledger(redis_client)
    return found


def lines(ids: list[str], **more: Any) -> str:
    return "\n".join(line(number, **more) for number in ids)


def test_a_completion_is_stored_field_by_field(call: Call, ids: list[str]) -> None:
    admitted = Admission.objects.get(pk=ids[0]).admitted_at
    fields = {
        "exit_reason": "confident",
        "decision_step": 30,
        "applied_step": 31,
        "prompt_tokens": 5,
        "thinking_tokens": 30,
        "answer_tokens": 4,
        "probe_tokens": 6,
        "overrun_tokens": 1,
        "thinking": "so",
        "text": " is 42",
        "latency_seconds": 1.25,
    }
    when = admitted + timedelta(milliseconds=1)
    assert report(post(call, line(ids[0], completed_at=when.isoformat(), **fields), JSON)) == (1, 0, 0)
    row = Completion.objects.get()
    assert {name: getattr(row, name) for name in fields} == fields
    assert (row.id, row.outcome, row.answer, row.finish_reason) == (ids[0], "answered", "42", "stop")
    assert (row.decoded_tokens, row.completed_at) == (41, when)


def test_many_come_as_json_lines(call: Call, ids: list[str]) -> None:
    assert report(post(call, lines(ids) + "\n\n")) == (3, 0, 0)
    assert set(Completion.objects.values_list("pk", flat=True)) == set(ids)


def test_posting_again_changes_nothing(call: Call, ids: list[str]) -> None:
    post(call, lines(ids[:2]))
    assert report(post(call, lines(ids, thinking_tokens=9, answer="43"))) == (1, 2, 0)
    assert sorted(Completion.objects.values_list("answer", flat=True)) == ["42", "42", "43"]


def test_of_an_id_twice_in_a_post_the_first_counts(call: Call, ids: list[str]) -> None:
    assert report(post(call, f"{line(ids[0])}\n{line(ids[0], answer='43')}")) == (1, 1, 0)
    assert Completion.objects.get().answer == "42"


def test_a_completion_may_come_before_its_assignment_is_stored(call: Call, redis_client: redis.Redis) -> None:
    found = assigned(call, user="ada", reference="42")
    assert report(post(call, line(found["id"]))) == (1, 0, 0)
    assert not Admission.objects.exists()
    write_ledger(redis_client)
    assert Label.objects.get(admission_id=found["id"]).correct is True


@pytest.mark.parametrize("retention", ["hash", "drop"])
def test_texts_that_are_not_kept_are_not_stored_either_before_or_behind_the_assignment(
    call: Call, redis_client: redis.Redis, use_case: UseCase, retention: str
) -> None:
    use_case = change_retention("test", use_case, retention)
    early, late = (assigned(call, user="ada", reference="the marker")["id"] for _ in range(2))
    texts = {"thinking": "the marker", "text": "the marker", "answer": "the marker", "error": "the marker"}
    assert report(post(call, line(early, **texts))) == (1, 0, 0)
    row = Completion.objects.get()
    assert "marker" not in f"{row.thinking} {row.text} {row.answer} {row.error}"
    write_ledger(redis_client)
    assert report(post(call, line(late, **texts))) == (1, 0, 0)
    assert list(Label.objects.values_list("correct", flat=True)) == [True, True]
    for row in (*Completion.objects.values_list(), *Admission.objects.values_list(), *Label.objects.values_list()):
        assert "marker" not in str(row)


def test_the_answer_is_extracted_from_the_text(call: Call, ids: list[str]) -> None:
    ModelProfile.objects.update(answer_pattern="boxed:")
    body = json.dumps({"id": ids[0], "outcome": "answered", "text": r"It is \boxed{42}."})
    assert report(post(call, body, JSON)) == (1, 0, 0)
    assert Completion.objects.get().answer == "42"


def test_an_error_needs_no_answer(call: Call, ids: list[str]) -> None:
    body = json.dumps({"id": ids[0], "outcome": "error", "error": "out of memory"})
    assert report(post(call, body, JSON)) == (1, 0, 0)
    assert Completion.objects.get().error == "out of memory"


# -- confinement ------------------------------------------------------------------------------------


def test_an_id_of_another_use_case_is_unknown(call: Call, use_case: UseCase, ids: list[str]) -> None:
    from experiments.services.assigned_ids import make_id

    other = UseCase.objects.create(slug="support", name="S", checkpoint=use_case.checkpoint, policy={"name": "full"})
    foreign = make_id(other.pk, use_case.checkpoint_id, datetime.now(UTC).timestamp())
    assert report(post(call, lines([foreign, ids[0]]))) == (1, 0, 1)
    assert Completion.objects.get().pk == ids[0]


@pytest.mark.parametrize(
    "forge", [lambda i: "chatcmpl-" + "0" * 32, lambda i: i[:-1] + "x", lambda i: "", lambda i: i[5:]]
)
def test_an_id_that_no_assignment_has_is_refused(call: Call, ids: list[str], forge: Any) -> None:
    body = json.loads(post(call, f"{line(ids[0])}\n{line(forge(ids[1]))}").content)
    said = f"id must be that of an assignment of this key's use case, got {forge(ids[1])!r}"
    assert (body["accepted"], body["refused"]) == (1, 1)
    assert body["errors"] == [{"line": 2, "field": "id", "detail": said}]


@pytest.mark.parametrize("scopes", [["label"], ["manage"]])
def test_a_key_without_the_scope_is_refused(call: Call, ids: list[str], scopes: list[str]) -> None:
    assert post(call, lines(ids), scopes=scopes).status_code == 403
    assert not Completion.objects.exists()


# -- bad lines --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "field", "said"),
    [
        ({"thinking_tokens": -1}, "thinking_tokens", "greater than or equal to 0, got -1"),
        ({"thinking_tokens": 10**30}, "thinking_tokens", "less than or equal to 100000000, got 1000000"),
        ({"thinking_tokens": 1.5}, "thinking_tokens", "valid integer, got 1.5"),
        ({"thinking_tokens": True}, "thinking_tokens", "valid integer, got True"),
        ({"outcome": "lost"}, "outcome", "'answered', 'error', 'timeout' or 'cancelled', got 'lost'"),
        ({"exit_reason": "x" * 33}, "exit_reason", "at most 32 characters, got 'xxx"),
        ({"text": "a\x00"}, "text", "must not hold the character NUL (U+0000), got 'a\\x00'"),
        ({"latency_seconds": -0.5}, "latency_seconds", "greater than or equal to 0, got -0.5"),
        ({"completed_at": "2999-01-01T00:00:00Z"}, "completed_at", "from the assignment to now"),
        ({"completed_at": "2001-01-01T00:00:00Z"}, "completed_at", "from the assignment to now"),
        ({"completed_at": "2025-01-01T00:00:00"}, "completed_at", "timezone"),
        ({"answer": None}, "answer", "answer or text must be there when outcome is 'answered', got neither"),
        ({"colour": "red"}, "colour", "not permitted, got 'red'"),
        ({"label": {"source": "judge", "score": 2}}, "label.score", "less than or equal to 1, got 2"),
    ],
)
def test_a_bad_line_is_refused_alone(call: Call, ids: list[str], more: dict[str, Any], field: str, said: str) -> None:
    body = json.loads(post(call, f"{line(ids[0])}\n{line(ids[1], **more)}\n{line(ids[2])}").content)
    assert (body["accepted"], body["refused"]) == (2, 1)
    (error,) = body["errors"]
    assert (error["line"], error["field"]) == (2, field)
    assert said in error["detail"]


@pytest.mark.parametrize(
    "bad", ["{", "3", "null", '{"id": "\\ud800"}', "\x00", '{"latency_seconds": NaN}', "[" * 10_000]
)
def test_a_line_that_is_no_object_is_refused_alone(call: Call, ids: list[str], bad: str) -> None:
    body = json.loads(post(call, f"{line(ids[0])}\n{bad}\n{line(ids[1])}").content)
    assert (body["accepted"], body["refused"], body["errors"][0]["line"]) == (2, 1, 2)


def test_one_bad_object_is_an_error(call: Call, ids: list[str]) -> None:
    answer = post(call, line(ids[0], probe_tokens=-1), JSON)
    assert (answer.status_code, json.loads(answer.content)["field"]) == (422, "probe_tokens")
    assert not Completion.objects.exists()


def test_a_line_that_is_too_long_is_skipped(call: Call, ids: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completions, "MAX_LINE_BYTES", 200)
    body = json.loads(post(call, f"{line(ids[0], thinking='x' * 999)}\n{line(ids[1])}").content)
    assert (body["accepted"], body["refused"]) == (1, 1)
    assert body["errors"] == [{"line": 1, "field": "body", "detail": "a line must have at most 200 bytes, got more"}]


def test_no_more_lines_than_allowed_are_read(call: Call, ids: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completions, "MAX_LINES", 2)
    answer = post(call, lines(ids))
    body = json.loads(answer.content)
    assert (answer.status_code, body["accepted"]) == (413, 2)
    assert body["detail"] == "a request must have at most 2 lines; nothing from line 3 on was read"


@pytest.mark.parametrize("body", ["", " \n\n"])
def test_no_line_at_all_is_refused(call: Call, ids: list[str], body: str) -> None:
    assert post(call, body).status_code == 422


def test_of_many_errors_the_first_hundred_are_told(call: Call, ids: list[str]) -> None:
    body = json.loads(post(call, "3\n" * 150).content)
    assert (body["refused"], len(body["errors"])) == (150, 100)


def test_another_content_type_is_refused(call: Call, ids: list[str]) -> None:
    answer = post(call, line(ids[0]), "text/csv")
    assert (answer.status_code, json.loads(answer.content)["field"]) == (422, "content-type")


# -- labels -----------------------------------------------------------------------------------------

BOTH = ["serve", "label"]


def test_a_label_comes_with_its_completion(call: Call, ids: list[str]) -> None:
    body = line(ids[0], label={"reference": "42"})
    assert report(post(call, body, scopes=BOTH)) == (1, 0, 0)
    label = Label.objects.get()
    assert (label.admission_id, label.source, label.correct) == (ids[0], "reference", True)


def test_a_label_needs_the_scope(call: Call, ids: list[str]) -> None:
    assert report(post(call, line(ids[0], label={"reference": "42"}))) == (0, 0, 1)
    assert not Completion.objects.exists()


def test_a_line_whose_label_is_refused_stores_nothing(call: Call, ids: list[str]) -> None:
    wrong = line(ids[1], label={"source": "audit", "correct": True})  # not drawn
    body = json.loads(post(call, f"{line(ids[0], label={'reference': '42'})}\n{wrong}", scopes=BOTH).content)
    assert (body["accepted"], body["refused"]) == (1, 1)
    assert (body["errors"][0]["line"], body["errors"][0]["field"]) == (2, "label.completion_id")
    assert "was not drawn for the audit" in body["errors"][0]["detail"]
    assert Completion.objects.get().pk == Label.objects.get().admission_id == ids[0]


def test_a_second_post_corrects_no_label(call: Call, ids: list[str]) -> None:
    post(call, line(ids[0], label={"reference": "42"}), scopes=BOTH)
    assert report(post(call, line(ids[0], label={"reference": "43"}), scopes=BOTH)) == (0, 1, 0)
    assert Label.objects.get().reference == "42"


# -- a database that fails --------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_a_post_that_fails_midway_can_be_posted_again(
    call: Call, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [assigned(call, user="ada")["id"] for _ in range(5)]
    write_ledger(redis_client)
    monkeypatch.setattr(served_elsewhere, "BATCH_LINES", 2)
    with monkeypatch.context() as patch:
        patch.setattr(served_elsewhere, "ingest", _killed_at(2))
        answer = post(call, lines(ids))
    body = json.loads(answer.content)
    assert (answer.status_code, body["accepted"], body["duplicates"]) == (503, 2, 0)
    assert body["detail"] == "the database failed; nothing from line 3 on was stored; post all lines again"
    assert set(Completion.objects.values_list("pk", flat=True)) == set(ids[:2])
    assert report(post(call, lines(ids))) == (3, 2, 0)
    assert Completion.objects.count() == 5


def _killed_at(batch: int) -> Any:
    """The ledger's ingest, whose connection the server ends during one of its batches."""
    from django.db import connection

    calls = 0

    def ingest(*records: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == batch:
            ledger.ingest(*records)
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        return ledger.ingest(*records)

    return ingest
