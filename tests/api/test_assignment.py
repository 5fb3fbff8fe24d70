"""Layers, ramps, holdouts, contexts, forced variants and the reach of keys, over the API."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.test import Client

from experiments.models import Experiment, UseCase
from experiments.services import experiments as service
from experiments.services.forcing import ForcedVariant, read_header
from experiments.services.registry import issue_api_key
from tests.api.conftest import Call
from tests.api.test_experiments import make

pytestmark = pytest.mark.usefixtures("redis_client")
RAMP = [{"coverage": 0.01, "hold_seconds": 60}, {"coverage": 1.0, "hold_seconds": 0}]


def send(call: Call, method: str, path: str, body: dict[str, Any], status: int = 200) -> Any:
    answer = call(method, path, scopes=["manage"], data=json.dumps(body), content_type="application/json")
    assert answer.status_code == status, answer.content
    return json.loads(answer.content)


@pytest.fixture
def support(use_case: UseCase) -> UseCase:
    """A second use case."""
    return UseCase.objects.create(slug="support", name="S", checkpoint=use_case.checkpoint, policy={"name": "full"})


def test_a_draft_declares_layer_and_ramp(call: Call, use_case: UseCase) -> None:
    path = f"/experiments/{make(use_case).pk}"
    body = send(call, "PATCH", path, {"layer": "prompts", "layer_range": [0, 2_500], "ramp": RAMP})
    assert (body["layer"], body["layer_range"], body["ramp"], body["coverage"]) == ("prompts", [0, 2_500], RAMP, 0.01)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"ramp": [{"coverage": 2, "hold_seconds": 0}]}, "coverage"),
        ({"ramp": [RAMP[1], RAMP[0]]}, "ramp"),
        ({"layer": "x", "layer_range": [10, 5]}, "layer_range"),
        ({"layer_range": [0, 1, 2]}, "layer_range"),
        ({"coverage": 1.5}, "coverage"),
    ],
)
def test_a_bad_declaration_is_refused_and_named(
    call: Call, use_case: UseCase, changes: dict[str, Any], field: str
) -> None:
    experiment = make(use_case)
    body = send(call, "PATCH", f"/experiments/{experiment.pk}", changes, 422)
    assert field in str(body)
    experiment.refresh_from_db()
    assert (experiment.ramp, experiment.layer, experiment.coverage) == ([], "", 1.0)


def test_a_running_ramp_shows_what_holds_it(call: Call, use_case: UseCase) -> None:
    experiment = make(use_case)
    send(call, "PATCH", f"/experiments/{experiment.pk}", {"ramp": RAMP})
    service.start("ada", experiment)
    body = json.loads(call("GET", f"/experiments/{experiment.pk}", scopes=["manage"]).content)
    assert body["ramp_status"]["next_coverage"] == 1.0
    assert body["ramp_status"]["held"] == "there is no look at this coverage from the last 300 seconds"


def test_coverage_is_raised_and_never_lowered(call: Call, use_case: UseCase) -> None:
    experiment = make(use_case)
    Experiment.objects.filter(pk=experiment.pk).update(coverage=0.1)
    service.start("ada", experiment)
    path = f"/experiments/{experiment.pk}/coverage"
    assert send(call, "POST", path, {"coverage": 0.25, "why": "all is well"})["coverage"] == 0.25
    refused = send(call, "POST", path, {"coverage": 0.2}, 422)
    assert refused == {"detail": "coverage must be above the present 0.25 and at most 1, got 0.2", "field": "coverage"}


def test_a_header_for_testers_is_made(call: Call, use_case: UseCase) -> None:
    experiment = make(use_case)
    path = f"/experiments/{experiment.pk}/forced-variants"
    body = send(call, "POST", path, {"variant": "short", "seconds": 60}, 201)
    assert body["header"] == "x-curtail-force-variant"
    assert read_header(body["value"], body["expires"] - 1) == ForcedVariant(experiment.pk, "short")
    refused = send(call, "POST", path, {"variant": "other"}, 422)
    assert refused["detail"] == "variant must be one of full, short, got 'other'"


def test_the_use_case_shows_and_changes_holdout_and_contexts(call: Call, use_case: UseCase) -> None:
    changes = {"holdout": 0.05, "policies_by_context": {"batch": {"name": "confidence"}}}
    body = send(call, "PATCH", "/use-case", changes)
    assert (body["slug"], body["holdout"]) == ("arithmetic", 0.05)
    assert body["policies_by_context"]["batch"]["parameters"]["aggregate"] == "geometric"
    assert json.loads(call("GET", "/use-case", scopes=["manage"]).content) == body
    refused = send(call, "PATCH", "/use-case", {"holdout": 0.9}, 422)
    assert refused["detail"] == "holdout must be 0 or a share from 0.0001 to 0.5, got 0.9"
    assert refused["field"] == "holdout"


def make_key(client: Client, token: str, **wanted: Any) -> Any:
    body = {"name": "ci", "scopes": ["serve"]} | wanted
    headers = {"authorization": f"Bearer {token}"}
    return client.post("/api/v1/keys", json.dumps(body), "application/json", headers=headers)


def test_a_key_makes_none_that_reaches_further(client: Client, use_case: UseCase, support: UseCase) -> None:
    token = issue_api_key("ada", "k", use_case, ["manage"]).token
    refused = [make_key(client, token, use_cases=["support"]), make_key(client, token, any_use_case=True)]
    assert [answer.status_code for answer in refused] == [422, 422]
    assert [answer.json()["field"] for answer in refused] == ["use_cases", "any_use_case"]
    assert "got 'support'" in refused[0].json()["detail"]


@pytest.mark.parametrize("everywhere", [True, False])
def test_a_key_hands_on_its_reach(client: Client, use_case: UseCase, support: UseCase, everywhere: bool) -> None:
    further = [] if everywhere else [support]
    token = issue_api_key("ada", "k", use_case, ["manage"], further=further, any_use_case=everywhere).token
    made = make_key(client, token, use_cases=["support"])
    assert made.status_code == 201
    assert (made.json()["use_cases"], made.json()["any_use_case"]) == (["support"], False)
