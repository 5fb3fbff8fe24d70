"""/api/v1/keys, and what a key of one use case sees of another."""

from __future__ import annotations

import json

import pytest
import redis
from django.test import Client
from django.utils import timezone

from experiments.models import Admission, ApiKey, AuditEvent, Label, UseCase
from experiments.services.experiments import VariantSpec, create_experiment
from experiments.services.registry import issue_api_key
from tests.api.conftest import Call

JSON = "application/json"


@pytest.fixture
def other(use_case: UseCase) -> UseCase:
    """A second use case of the same model."""
    return UseCase.objects.create(
        slug="support", name="Support", checkpoint=use_case.checkpoint, policy={"name": "full"}
    )


def test_a_new_key_is_shown_once_and_stored_as_its_hash(call: Call, redis_client: redis.Redis) -> None:
    answer = call(
        "POST", "/keys", scopes=["manage"], data=json.dumps({"name": "ci", "scopes": ["label"]}), content_type=JSON
    )
    made = json.loads(answer.content)
    listed = json.loads(call("GET", "/keys", scopes=["manage"]).content)
    row = next(row for row in listed if row["id"] == made["id"])
    assert answer.status_code == 201
    assert made["token"].startswith(made["prefix"])
    assert row == {name: value for name, value in made.items() if name != "token"}
    assert made["token"] not in str(ApiKey.objects.filter(pk=made["id"]).values())


def test_a_revoked_key_is_refused(call: Call, client: Client, use_case: UseCase, redis_client: redis.Redis) -> None:
    issued = issue_api_key("ada", "old", use_case, ["manage"])
    assert call("DELETE", f"/keys/{issued.key.pk}", scopes=["manage"]).status_code == 204
    answer = client.get("/api/v1/keys", headers={"authorization": f"Bearer {issued.token}"})
    assert answer.status_code == 401
    assert AuditEvent.objects.filter(action="revoke API key", subject_id=str(issued.key.pk)).count() == 1


def test_an_unknown_scope_is_refused(call: Call, redis_client: redis.Redis) -> None:
    body = json.dumps({"name": "ci", "scopes": ["everything"]})
    assert call("POST", "/keys", scopes=["manage"], data=body, content_type=JSON).status_code == 422


@pytest.mark.parametrize("scope", ["serve", "label"])
def test_keys_are_managed_with_the_scope_manage_alone(call: Call, redis_client: redis.Redis, scope: str) -> None:
    assert call("GET", "/keys", scopes=[scope]).status_code == 403


def test_a_key_of_another_use_case_is_neither_listed_nor_revoked(
    call: Call, other: UseCase, redis_client: redis.Redis
) -> None:
    theirs = issue_api_key("ada", "theirs", other, ["serve"]).key
    assert theirs.pk not in [row["id"] for row in json.loads(call("GET", "/keys", scopes=["manage"]).content)]
    assert call("DELETE", f"/keys/{theirs.pk}", scopes=["manage"]).status_code == 404
    assert ApiKey.objects.get(pk=theirs.pk).revoked_at is None


def test_a_completion_of_another_use_case_cannot_be_labelled(
    call: Call, other: UseCase, redis_client: redis.Redis
) -> None:
    now = timezone.now()
    Admission.objects.create(
        id="theirs",
        use_case=other,
        checkpoint=other.checkpoint,
        policy={"name": "full"},
        policy_version="v1",
        admitted_at=now,
        deadline_at=now,
    )
    body = json.dumps({"completion_id": "theirs", "reference": "42"})
    answer = call("POST", "/labels", scopes=["label"], data=body, content_type=JSON)
    assert (answer.status_code, json.loads(answer.content)["field"]) == (422, "completion_id")
    assert not Label.objects.exists()


@pytest.mark.parametrize("path", ["", "/snapshot", "/snapshot.csv", "/snapshots", "/audit"])
def test_an_experiment_of_another_use_case_does_not_exist(
    call: Call, other: UseCase, redis_client: redis.Redis, path: str
) -> None:
    full = {"name": "full"}
    arms = [
        VariantSpec("full", full, other.checkpoint, 0.5, is_control=True),
        VariantSpec("short", {"name": "confidence", "parameters": {"threshold": 0.9}}, other.checkpoint, 0.5),
    ]
    theirs = create_experiment("ada", other, "Theirs", arms)
    assert call("GET", f"/experiments/{theirs.pk}{path}", scopes=["manage"]).status_code == 404
    assert json.loads(call("GET", "/experiments", scopes=["manage"]).content) == []
