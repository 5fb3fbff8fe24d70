"""Parameters and the JSON form of policies."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.policies import (
    POLICIES,
    Confidence,
    Full,
    Policy,
    TokenBudget,
    policy_from_spec,
    policy_schema,
    policy_to_spec,
    policy_version,
)
from experiments.policies.parameters import Parameter, parameters_of


def values(parameter: Parameter) -> st.SearchStrategy[Any]:
    """Allowed values of a parameter."""
    chosen: st.SearchStrategy[Any]
    if parameter.choices:
        chosen = st.sampled_from(parameter.choices)
    elif parameter.kind is str:
        chosen = st.text(max_size=int(parameter.maximum or 0))
    elif parameter.kind is int:
        chosen = st.integers(int(parameter.minimum or 0), int(parameter.maximum or 0))
    else:
        low, high = parameter.minimum or 0.0, parameter.maximum or 0.0
        chosen = st.floats(low, high) | st.sampled_from([int(low), int(high), *([] if low else [-0.0])])
    return st.none() | chosen if parameter.optional else chosen


def policies_of(cls: type[Policy]) -> st.SearchStrategy[Policy]:
    fields = {name: values(parameter) for name, (parameter, _) in parameters_of(cls).items()}
    return st.fixed_dictionaries(fields).map(lambda chosen: cls(**chosen))


policies = st.sampled_from(list(POLICIES.values())).flatmap(policies_of)


@settings(max_examples=60, deadline=None)
@given(policies)
def test_a_policy_survives_its_json_form(policy: Policy) -> None:
    back = policy_from_spec(json.loads(json.dumps(policy_to_spec(policy))))
    assert back == policy
    assert policy_version(back) == policy_version(policy)


@settings(max_examples=100, deadline=None)
@given(policies, policies)
def test_versions_are_equal_iff_the_policies_are(one: Policy, other: Policy) -> None:
    assert (policy_version(one) == policy_version(other)) == (one == other)


@pytest.mark.parametrize(("one", "other"), [(1, 1.0), (0, 0.0), (-0.0, 0.0)])
def test_a_number_has_one_version_however_it_is_written(one: float, other: float) -> None:
    assert policy_version(Confidence(threshold=one)) == policy_version(Confidence(threshold=other))


def test_a_version_is_twelve_hex_digits() -> None:
    assert re.fullmatch("[0-9a-f]{12}", policy_version(Full()))


def test_defaults_are_written_out() -> None:
    assert policy_to_spec(policy_from_spec({"name": "answer_convergence"})) == {
        "name": "answer_convergence",
        "parameters": {
            "max_thinking_tokens": None,
            "wrap_up": "",
            "patience": 8,
            "probe_every": 64,
            "min_thinking_tokens": 0,
        },
    }


@settings(max_examples=40, deadline=None)
@given(policies)
def test_every_policys_parameters_fit_its_schema(policy: Policy) -> None:
    jsonschema.validate(policy_to_spec(policy)["parameters"], policy_schema(type(policy)))


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_the_schema_is_valid_draft_2020_12(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(policy_schema(POLICIES[name]))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("answer_convergence", {"patience": 1}),
        ("answer_convergence", {"probe_every": 0}),
        ("answer_convergence", {"patience": True}),
        ("confidence", {"threshold": 1.5}),
        ("confidence", {"aggregate": "mean"}),
        ("confidence", {"patience": None}),
        ("token_budget", {}),
        ("full", {"patience": 2}),
    ],
)
def test_the_schema_refuses_what_the_policy_refuses(name: str, parameters: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=name + "|" + "|".join(parameters)):
        policy_from_spec({"name": name, "parameters": parameters})
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(parameters, policy_schema(POLICIES[name]))


def test_the_schema_tells_units_defaults_and_bounds() -> None:
    assert policy_schema(Confidence)["properties"]["threshold"] == {
        "type": "number",
        "description": "Smallest confidence that counts as sure.",
        "unit": "probability",
        "minimum": 0.0,
        "maximum": 1.0,
        "default": 0.95,
    }
    assert policy_schema(TokenBudget)["required"] == ["max_thinking_tokens"]


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("answer_convergence", {"patience": 1}, "patience must be at least 2, got 1"),
        ("answer_convergence", {"patience": 1001}, "patience must be at most 1000, got 1001"),
        ("answer_convergence", {"patience": True}, "patience must be an integer, got True"),
        ("answer_convergence", {"patience": 2.5}, "patience must be an integer, got 2.5"),
        ("answer_convergence", {"patience": "8"}, "patience must be an integer, got '8'"),
        ("answer_convergence", {"patience": None}, "patience is required, got null"),
        ("answer_convergence", {"probe_every": 1_000_001}, "probe_every must be at most 1000000, got 1000001"),
        ("answer_convergence", {"min_thinking_tokens": -1}, "min_thinking_tokens must be at least 0, got -1"),
        ("confidence", {"threshold": math.nan}, "threshold must be a number, got nan"),
        ("confidence", {"threshold": math.inf}, "threshold must be a number, got inf"),
        ("confidence", {"threshold": True}, "threshold must be a number, got True"),
        ("confidence", {"threshold": "high"}, "threshold must be a number, got 'high'"),
        ("confidence", {"threshold": -0.1}, "threshold must be at least 0, got -0.1"),
        ("confidence", {"threshold": 1.01}, "threshold must be at most 1, got 1.01"),
        ("confidence", {"aggregate": "mean"}, "aggregate must be one of geometric, arithmetic, min, got 'mean'"),
        ("confidence", {"aggregate": ["min"]}, "aggregate must be one of geometric, arithmetic, min, got ['min']"),
        ("full", {"max_thinking_tokens": 0}, "max_thinking_tokens must be at least 1, got 0"),
        ("token_budget", {"max_thinking_tokens": None}, "max_thinking_tokens is required, got null"),
        ("token_budget", {}, "token_budget needs max_thinking_tokens"),
        ("full", {"wrap_up": "x" * 501}, "wrap_up must have at most 500 characters, got 501"),
        ("full", {"wrap_up": None}, "wrap_up is required, got null"),
        ("full", {"wrap_up": 7}, "wrap_up must be a text, got 7"),
        ("end_margin", {"threshold": -1}, "threshold must be at least 0, got -1"),
        ("entropy_plateau", {"timescale": 0.5}, "timescale must be at least 1, got 0.5"),
        ("plateau", {"delta": 1.5}, "delta must be at most 1, got 1.5"),
        ("run_jump", {"min_jump": 0}, "min_jump must be at least 1, got 0"),
        ("full", {"patience": 2}, "full has no parameter patience; it takes max_thinking_tokens, wrap_up"),
    ],
)
def test_a_refusal_names_the_parameter_the_value_and_the_bound(
    name: str, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        policy_from_spec({"name": name, "parameters": parameters})


def test_an_integer_too_large_for_a_float_is_refused_like_any_other() -> None:
    with pytest.raises(ValueError, match=r"^patience must be at most 1000, got 1000"):
        policy_from_spec({"name": "confidence", "parameters": {"patience": 10**400}})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (None, "policy must be an object"),
        ("full", "policy must be an object"),
        ({}, "policy must be an object"),
        ({"name": 3}, "policy must be an object"),
        ({"name": "fast"}, f"policy.name must be one of {', '.join(POLICIES)}, got 'fast'"),
        ({"name": "full", "version": 2, "extra": 1}, "policy has unknown fields: extra, version"),
        ({"name": "full", "parameters": []}, "policy.parameters must be an object, got []"),
        ({"name": "full", "parameters": None}, "policy.parameters must be an object, got None"),
    ],
)
def test_another_shape_is_refused(spec: object, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        policy_from_spec(spec)


@pytest.mark.parametrize("policy", [Full(), TokenBudget(max_thinking_tokens=9), Confidence()])
def test_policies_are_frozen(policy: Policy) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        policy.max_thinking_tokens = 3  # type: ignore[misc]


def test_a_cap_reaches_every_policy() -> None:
    for name in POLICIES:
        assert policy_from_spec({"name": name, "parameters": {"max_thinking_tokens": 77}}).max_thinking_tokens == 77
