"""/api/v1/use-case and /api/v1/erasures: what is kept, and making it go."""

from __future__ import annotations

import json

import pytest

from experiments.models import Admission, AuditEvent, Checkpoint, Completion, UseCase
from experiments.services.ledger import ingest
from experiments.services.secrets import unit_digest
from experiments.wire import AdmissionRecord, CompletionRecord
from tests.api.conftest import Call

JSON = "application/json"


pytestmark = pytest.mark.usefixtures("redis_client")


def store(use_case: UseCase, number: str, user: str) -> None:
    admission = AdmissionRecord(
        number,
        use_case.pk,
        use_case.checkpoint_id,
        None,
        None,
        "",
        {},
        "v",
        None,
        1e9,
        1e9,
        user_hash=unit_digest(user),
    )
    ingest([admission], [CompletionRecord(number, "answered", 1e9, text="words")])


def test_the_use_case_is_shown_with_its_retention(call: Call) -> None:
    assert call("GET", "/use-case", scopes=["manage"]).json()["retention"] == "keep"


def test_retention_is_changed_by_the_key_and_its_event_says_so(call: Call, use_case: UseCase) -> None:
    answer = call("PATCH", "/use-case", scopes=["manage"], data=json.dumps({"retention": "drop"}), content_type=JSON)
    assert answer.json()["retention"] == "drop"
    event = AuditEvent.objects.get(action="change retention")
    assert (event.actor.split()[0], event.subject_id) == ("key", str(use_case.pk))


@pytest.mark.parametrize("body", [{"retention": "forget"}, {"retention": "drop", "checkpoint": 7}])
def test_a_change_that_is_refused_changes_nothing(call: Call, use_case: UseCase, body: dict[str, object]) -> None:
    answer = call("PATCH", "/use-case", scopes=["manage"], data=json.dumps(body), content_type=JSON)
    assert answer.status_code == 422
    use_case.refresh_from_db()
    assert use_case.retention == "keep"


def test_a_unit_is_erased(call: Call, use_case: UseCase) -> None:
    store(use_case, "a", "ann")
    answer = call("POST", "/erasures", scopes=["manage"], data=json.dumps({"unit": "ann"}), content_type=JSON)
    assert answer.json() == {"completions": 1, "labels": 0, "shadow_runs": 0, "dead_letters": 0}
    assert Completion.objects.get().text == ""


def test_a_key_erases_in_its_own_use_case_only(call: Call, use_case: UseCase) -> None:
    checkpoint = Checkpoint.objects.get()
    other = UseCase.objects.create(slug="other", name="Other", checkpoint=checkpoint, policy={"name": "full"})
    store(other, "b", "ann")
    answer = call("POST", "/erasures", scopes=["manage"], data=json.dumps({"unit": "ann"}), content_type=JSON)
    assert answer.json()["completions"] == 0
    assert Completion.objects.get().text == "words"
    assert Admission.objects.get().retention == "keep"


@pytest.mark.parametrize("unit", ["", "x" * 513, "\x00", 5, None])
def test_what_is_no_unit_is_refused(call: Call, unit: object) -> None:
    answer = call("POST", "/erasures", scopes=["manage"], data=json.dumps({"unit": unit}), content_type=JSON)
    assert answer.status_code == 422


@pytest.mark.parametrize(("method", "path"), [("GET", "/use-case"), ("PATCH", "/use-case"), ("POST", "/erasures")])
@pytest.mark.parametrize(("scopes", "status"), [(None, 401), (["serve", "label"], 403)])
def test_the_scope_manage_is_needed(call: Call, method: str, path: str, scopes: list[str] | None, status: int) -> None:
    assert call(method, path, scopes=scopes, data="{}", content_type=JSON).status_code == status
