"""What a sampler is told about a request: it comes back from its JSON, and bad ones are refused with what is wrong."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from experiments.policies import AnswerConvergence, EndMargin, EntropyPlateau, Full, TokenBudget
from workers.engines.vllm_engine.plan import ARGUMENT, MAX_TEXT_LENGTH, Plan

BUDGET = {"name": "token_budget", "parameters": {"max_thinking_tokens": 5}}


def read(value: Any) -> Plan | None:
    return Plan.from_arguments({ARGUMENT: value})


@pytest.mark.parametrize("arguments", [None, {}, {"other": "1"}, {ARGUMENT: None}])
def test_no_plan_is_no_plan(arguments: dict[str, Any] | None) -> None:
    assert Plan.from_arguments(arguments) is None


@pytest.mark.parametrize("policy", [Full(), TokenBudget(max_thinking_tokens=7, wrap_up="so\n"), EndMargin(patience=3)])
def test_a_plan_comes_back_from_its_json(policy: Any) -> None:
    plan = Plan(policy, "r", 9, "<t>", "</t>", False, "\n\n")
    assert read(plan.to_json()) == plan


def test_a_plan_may_be_an_object() -> None:
    assert read({"policy": BUDGET}) == Plan(TokenBudget(max_thinking_tokens=5))


def test_a_plan_without_a_policy_has_the_clients_cap_alone() -> None:
    assert read({"client_cap": 5}) == Plan(Full(), client_cap=5)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{", "curtail must be a JSON object, got '{'"),
        ("[" * 100_000, "curtail must be a JSON object"),
        ("[1]", "curtail must be a JSON object, got [1]"),
        (5, "curtail must be a JSON object, got 5"),
        ({"budget": 5}, "curtail has unknown fields: budget; it takes"),
        ({"client_cap": 0}, "curtail.client_cap must be an integer of at least 1, got 0"),
        ({"client_cap": True}, "curtail.client_cap must be an integer of at least 1, got True"),
        ({"client_cap": 2.5}, "curtail.client_cap must be an integer of at least 1, got 2.5"),
        ({"think_close": ""}, "curtail.think_close must not be empty"),
        ({"think_open": 3}, "curtail.think_open must be a text, got 3"),
        ({"step_boundary": "x" * 501}, "curtail.step_boundary must have at most 500 characters, got 501"),
        ({"template_opens_thinking": 1}, "curtail.template_opens_thinking must be true or false, got 1"),
        ({"policy": None}, "policy"),
        ({"policy": {"name": "no_such"}}, "no_such"),
        (
            {"policy": {"name": "token_budget", "parameters": {"max_thinking_tokens": 0}}},
            "max_thinking_tokens must be at least 1, got 0",
        ),
        ({"policy": {"name": "end_margin", "parameters": {"threshold": -1}}}, "threshold must be at least 0, got -1"),
    ],
)
def test_a_bad_plan_is_refused_with_what_is_wrong(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        read(value)


@pytest.mark.parametrize("policy", [AnswerConvergence(), EntropyPlateau()])
def test_a_policy_that_needs_branches_is_refused_with_the_signals_it_reads(policy: Any) -> None:
    with pytest.raises(ValueError, match=rf"policy {policy.name} reads \w+, which a running request does not show"):
        read(Plan(policy).to_json())


@pytest.mark.parametrize("field", ["think_open", "step_boundary", "key"])
def test_half_a_character_is_refused_before_it_reaches_a_tokenizer(field: str) -> None:
    with pytest.raises(ValueError, match=rf"{field} must be valid Unicode"):
        read(json.dumps({field: "a\ud800"}))


def test_half_a_character_in_a_wrap_up_phrase_is_refused() -> None:
    spec = {"name": "full", "parameters": {"wrap_up": "\udc00"}}
    with pytest.raises(ValueError, match="wrap_up must be valid Unicode"):
        read(json.dumps({"policy": spec}))


def test_a_text_of_the_greatest_length_is_taken() -> None:
    assert read({"step_boundary": "x" * MAX_TEXT_LENGTH}) is not None
