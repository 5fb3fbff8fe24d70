"""Holdouts, policies by context, and what keys reach."""

from __future__ import annotations

from typing import Any

import pytest

from experiments.models import AuditEvent, Experiment, UseCase
from experiments.services import experiments as service
from experiments.services.errors import InvalidInput
from experiments.services.registry import issue_api_key, register_use_case
from experiments.services.routing import load_routing
from experiments.services.secrets import api_key_digest
from experiments.services.use_cases import change_use_case
from tests.service_layer.conftest import FULL, SHORT

BUDGET = {"name": "token_budget", "parameters": {"max_thinking_tokens": 64}}


def test_a_holdout_keeps_its_salt(use_case: UseCase) -> None:
    first = load_after(use_case, holdout=0.05).holdout
    second = load_after(use_case, holdout=0.1).holdout
    assert first is not None
    assert second is not None
    assert (first.low, first.high, second.low, second.high) == (0, 500, 0, 1_000)
    assert first.salt == second.salt
    assert len(first.salt) == 16


def load_after(use_case: UseCase, **changes: Any) -> Any:
    change_use_case("ada", use_case, changes)
    return load_routing(1).routes["arithmetic"]


def test_a_policy_by_context_is_routed(use_case: UseCase) -> None:
    route = load_after(use_case, policies_by_context={"batch": SHORT})
    assert route.outside("batch").policy["name"] == "confidence"
    assert route.outside("batch").policy["parameters"]["aggregate"] == "geometric"
    assert route.outside("realtime").policy["name"] == "full"


def test_a_change_is_an_audit_event(use_case: UseCase) -> None:
    change_use_case("ada", use_case, {"holdout": 0.05})
    change_use_case("ada", use_case, {"holdout": 0.05})
    event = AuditEvent.objects.get(action="change use case")
    assert (event.actor, event.before, event.after) == ("ada", {"holdout": 0.0}, {"holdout": 0.05})


def test_a_holdout_stays_while_an_experiment_runs(running: Experiment, use_case: UseCase) -> None:
    with pytest.raises(InvalidInput, match="holdout can't change while experiment 'Early exit' is running"):
        change_use_case("ada", use_case, {"holdout": 0.05})
    service.pause("ada", running)
    assert change_use_case("ada", use_case, {"holdout": 0.05}).holdout == 0.05


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"holdout": -0.1}, "holdout", "holdout must be 0 or a share from 0.0001 to 0.5, got -0.1"),
        ({"holdout": 0.51}, "holdout", "got 0.51"),
        ({"holdout": 0.00001}, "holdout", "got 1e-05"),
        ({"holdout": float("nan")}, "holdout", "got nan"),
        ({"holdout": True}, "holdout", "got True"),
        ({"margin": 0.1}, "margin", "margin must be one of holdout, policies_by_context"),
        ({"policies_by_context": []}, "policies_by_context", "must be an object of at most 20 contexts, got []"),
        ({"policies_by_context": {"a b": FULL}}, "policies_by_context", "digits, . - and _, got 'a b'"),
        (
            {"policies_by_context": {"batch": {"name": "confidence", "parameters": {"threshold": 2}}}},
            "policies_by_context.batch",
            "threshold must be at most 1, got 2",
        ),
    ],
)
def test_a_bad_value_changes_nothing(use_case: UseCase, changes: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        change_use_case("ada", use_case, changes)
    assert caught.value.field == field
    assert message in str(caught.value)
    use_case.refresh_from_db()
    assert (use_case.holdout, use_case.policies_by_context, use_case.holdout_salt) == (0.0, {}, "")


def test_a_policy_that_the_engine_cannot_apply_is_refused(use_case: UseCase) -> None:
    model = use_case.checkpoint.model
    model.engine = "unknown"
    model.save()
    with pytest.raises(InvalidInput, match="engine must be one of"):
        change_use_case("ada", use_case, {"policies_by_context": {"batch": BUDGET}})


def test_registering_again_keeps_what_is_in_force_by_context(use_case: UseCase) -> None:
    change_use_case("ada", use_case, {"policies_by_context": {"batch": BUDGET}})
    again = register_use_case("ada", "arithmetic", policy=FULL, name="Sums", checkpoint=use_case.checkpoint)
    assert list(again.policies_by_context) == ["batch"]


def test_a_key_reaches_its_use_case_and_those_given_besides(use_case: UseCase) -> None:
    support, other = [
        UseCase.objects.create(slug=slug, name=slug, checkpoint=use_case.checkpoint, policy=FULL)
        for slug in ("support", "other")
    ]
    tokens = [
        issue_api_key("ada", "k", use_case, ["serve"], **options).token
        for options in ({}, {"further": [support]}, {"any_use_case": True})
    ]
    grants = [load_routing(1).keys[api_key_digest(token)] for token in tokens]
    slugs = ("arithmetic", support.slug, other.slug)
    assert [[grant.reaches(slug) for slug in slugs] for grant in grants] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]
