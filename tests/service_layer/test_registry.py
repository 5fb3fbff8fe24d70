"""Registering models, checkpoints, use cases and API keys."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from django.core import serializers

from experiments.models import ApiKey, AuditEvent, Checkpoint, Experiment, ModelProfile, UseCase
from experiments.services.errors import InvalidInput
from experiments.services.registry import (
    issue_api_key,
    register_checkpoint,
    register_model,
    register_use_case,
    revoke_api_key,
)
from experiments.services.routing import load_routing
from experiments.services.secrets import api_key_digest
from tests.service_layer.conftest import FULL


def register(checkpoint: Checkpoint, **fields: Any) -> UseCase:
    """A valid use case with these fields on top."""
    return register_use_case("ada", "math", **{"policy": FULL, "name": "Math", "checkpoint": checkpoint, **fields})


@pytest.mark.django_db
def test_a_model_is_created_with_an_audit_event() -> None:
    model = register_model("ada", name="tiny", max_context_tokens=512, step_boundary="\n")
    model.refresh_from_db()
    assert (model.max_context_tokens, model.step_boundary, model.think_close) == (512, "\n", "</think>")
    event = AuditEvent.objects.get()
    assert (event.actor, event.action, event.before) == ("ada", "register model", None)
    assert event.after == {"max_context_tokens": 512, "step_boundary": "\n"}


def test_registering_again_changes_the_model_and_says_what_changed(model: ModelProfile) -> None:
    again = register_model("ada", name="tiny", max_context_tokens=1024)
    assert again.pk == model.pk
    event = AuditEvent.objects.get()
    assert (event.before, event.after) == ({"max_context_tokens": 512}, {"max_context_tokens": 1024})


def test_registering_the_same_again_is_no_event(model: ModelProfile) -> None:
    register_model("ada", name="tiny", max_context_tokens=512)
    assert not AuditEvent.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"max_context_tokens": None}, "max_context_tokens", "max_context_tokens: This field cannot be null"),
        ({"max_context_tokens": 0}, "max_context_tokens", "greater than or equal to 1. (got 0)"),
        ({"max_trial_tokens": 0}, "max_trial_tokens", "greater than or equal to 1. (got 0)"),
        ({"temperature": 2.5}, "temperature", "less than or equal to 2.0. (got 2.5)"),
        ({"temperature": math.nan}, "temperature", "temperature must be a finite number, got nan"),
        ({"name": "a b"}, "name", "(got 'a b')"),
        ({"engine": "magic"}, "engine", "'magic' is not a valid choice"),
        ({"grader": "vibes"}, "grader", "grader must be one of exact_match, plain, numeric"),
        ({"grader_options": {"case": True}}, "grader_options", "grader exact_match has no option case"),
        ({"grader_options": 3}, "grader_options", "grader_options must be an object, got 3"),
        ({"grader": "plain", "grader_options": {"ignore_case": 3}}, "grader_options", "true or false, got 3"),
        ({"answer_pattern": "json:"}, "answer_pattern", "answer_pattern json: needs a path such as result.answer"),
        ({"answer_pattern": "(7"}, "answer_pattern", "answer_pattern is no regular expression: missing )"),
        ({"answer_pattern": "a{99999999999999999999}"}, "answer_pattern", "answer_pattern is no regular expression"),
    ],
)
def test_a_bad_model_is_refused_with_field_and_bound(fields: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        register_model("ada", **{"name": "tiny", "max_context_tokens": 512, **fields})
    assert caught.value.field == field
    assert message in str(caught.value)
    assert not ModelProfile.objects.exists()
    assert not AuditEvent.objects.exists()


@pytest.mark.django_db
def test_the_options_of_a_grader_are_kept_written_out() -> None:
    model = register_model(
        "ada", name="tiny", max_context_tokens=512, grader="numeric", grader_options={"relative_tolerance": 0.01}
    )
    model.refresh_from_db()
    assert model.grader_options == {"absolute_tolerance": 0.0, "relative_tolerance": 0.01, "percent": "fraction"}


def test_another_grader_does_not_keep_the_options_of_the_first(model: ModelProfile) -> None:
    register_model("ada", name="tiny", grader="plain", grader_options={"ignore_case": True})
    assert register_model("ada", name="tiny", grader="multiple_choice").grader_options == {"letters": "ABCD"}


def test_options_alone_are_those_of_the_grader_in_place(model: ModelProfile) -> None:
    register_model("ada", name="tiny", grader="multiple_choice")
    again = register_model("ada", name="tiny", grader_options={"letters": "xyz"})
    assert (again.grader, again.grader_options) == ("multiple_choice", {"letters": "XYZ"})


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("grader", {"grader": "numeric"}),
        ("answer_pattern", {"answer_pattern": "boxed:"}),
    ],
)
def test_what_answers_are_graded_by_cannot_change_under_a_running_experiment(
    running: Experiment, field: str, fields: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInput) as caught:
        register_model("ada", name="tiny", **fields)
    assert caught.value.field == field
    assert f"{field} can't change while experiment 'Early exit' is running" in str(caught.value)


def test_a_running_experiment_lets_the_rest_of_its_model_change(running: Experiment) -> None:
    assert register_model("ada", name="tiny", grader="exact_match", temperature=0.5).temperature == 0.5


def test_a_checkpoint_is_named_within_its_model(model: ModelProfile) -> None:
    first = register_checkpoint("ada", model, "last", "/weights/1", step=10)
    again = register_checkpoint("ada", model, "last", "/weights/2", step=20)
    assert first.pk == again.pk
    assert (Checkpoint.objects.get().path, Checkpoint.objects.get().step) == ("/weights/2", 20)


def test_a_use_case_keeps_its_policy_written_out(checkpoint: Checkpoint) -> None:
    use_case = register(checkpoint, policy={"name": "full"}, margin=0.03)
    use_case.refresh_from_db()
    assert use_case.policy == FULL
    assert (use_case.margin, use_case.min_saving, use_case.deadline_seconds) == (0.03, 0.05, 60.0)


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"margin": 0.0}, "margin", "margin must be a fraction between 0 and 1, got 0"),
        ({"margin": 2}, "margin", "margin must be a fraction between 0 and 1, got 2"),
        ({"min_saving": 1.0}, "min_saving", "min_saving must be a fraction between -1 and 1, got 1"),
        ({"policy": {"name": "fast"}}, "policy", "policy.name must be one of full"),
        ({"policy": None}, "policy", "policy must be an object"),
        ({"deadline_seconds": 0}, "deadline_seconds", "deadline_seconds must be above 0 and at most 86400, got 0"),
        ({"deadline_seconds": -1.5}, "deadline_seconds", "at most 86400, got -1.5"),
        ({"deadline_seconds": math.inf}, "deadline_seconds", "at most 86400, got inf"),
        ({"deadline_seconds": math.nan}, "deadline_seconds", "at most 86400, got nan"),
        ({"name": ""}, "name", "name: This field cannot be blank"),
    ],
)
def test_a_bad_use_case_is_refused_with_field_and_bound(
    checkpoint: Checkpoint, fields: dict[str, Any], field: str, message: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        register(checkpoint, **fields)
    assert caught.value.field == field
    assert message in str(caught.value)
    assert not UseCase.objects.exists()


def test_an_api_key_is_stored_hashed(use_case: UseCase) -> None:
    issued = issue_api_key("ada", "gateway", use_case, ["serve", "label"])
    key = ApiKey.objects.get()
    assert issued.token.startswith(key.prefix)
    assert len(issued.token) > 40
    assert key.digest == api_key_digest(issued.token)
    assert key.scopes == ["label", "serve"]
    stored = serializers.serialize("json", [*ApiKey.objects.all(), *AuditEvent.objects.all()])
    assert issued.token not in stored
    assert issued.token.removeprefix(key.prefix) not in stored


def test_two_keys_differ(use_case: UseCase) -> None:
    tokens = {issue_api_key("ada", "k", use_case, ["serve"]).token for _ in range(3)}
    assert len(tokens) == 3


@pytest.mark.parametrize("scopes", [[], ["serve", "admin"], "serve"])
def test_unknown_scopes_are_refused(use_case: UseCase, scopes: list[str]) -> None:
    with pytest.raises(InvalidInput, match="scopes must be some of label, manage, serve, got") as caught:
        issue_api_key("ada", "k", use_case, scopes)
    assert caught.value.field == "scopes"
    assert not ApiKey.objects.exists()


def test_a_revoked_key_is_worthless_and_revoked_once(use_case: UseCase) -> None:
    issued = issue_api_key("ada", "k", use_case, ["serve"])
    digest = api_key_digest(issued.token)
    assert load_routing(1).keys[digest].use_case == "arithmetic"
    revoke_api_key("bob", issued.key)
    revoke_api_key("bob", issued.key)
    assert digest not in load_routing(2).keys
    events = AuditEvent.objects.filter(action="revoke API key")
    assert [(e.actor, e.before, e.after) for e in events] == [("bob", {"revoked": False}, {"revoked": True})]


def test_a_digest_depends_on_the_installations_secret(settings: Any) -> None:
    first = api_key_digest("ck_one")
    assert first == api_key_digest("ck_one")
    settings.SECRET_KEY = "another secret key of this test, long enough"
    assert api_key_digest("ck_one") != first


def test_the_audit_trail_of_registering_is_plain_json(checkpoint: Checkpoint) -> None:
    register(checkpoint)
    after = AuditEvent.objects.get(action="register use case").after
    assert json.loads(json.dumps(after))["checkpoint"] == checkpoint.pk
