"""Requests beyond plain text: refused, served under their policy, or served by `full`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from experiments.eligibility import set_aside, unserved
from experiments.gateway.admission import decide, serve_request
from experiments.gateway.chat_request import ChatRequest, parse_chat_request
from experiments.gateway.dialect import Dialect, UnknownParameters
from experiments.gateway.directions import Directions
from experiments.gateway.errors import ApiError
from experiments.policies import Policy, RequestFeature
from experiments.routing import Arm, Route, RunningExperiment

FULL = Arm(1, {"name": "full", "parameters": {}}, "v0", 10, "full")
BUDGET = Arm(2, {"name": "token_budget", "parameters": {"max_thinking_tokens": 9}}, "v1", 11, "budget")
SURE = Arm(3, {"name": "confidence", "parameters": {}}, "v2", 12, "sure")
TOOLS: Mapping[RequestFeature, str] = {RequestFeature.TOOLS: "tools"}
TOOL = {"type": "function", "function": {"name": "add"}}


def always(checkpoint_id: int, policy: Policy) -> bool:
    return True


def route(in_force: Arm = FULL, arms: tuple[Arm, ...] = (), engine: str = "openai") -> Route:
    ranges = ((0.0, 0.5), (0.5, 1.0))
    experiment = RunningExperiment(7, 8, "salt", "user", ranges, arms) if arms else None
    return Route(3, "arithmetic", "tiny", 0.0, 60.0, in_force, (experiment,) if experiment else (), engine=engine)


def request(**fields: Any) -> ChatRequest:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "1+1"}], "user": "u", **fields}
    return parse_chat_request(orjson.dumps(body))


@pytest.mark.parametrize("engine", ["transformers", "vllm", "scripted", "unheard-of"])
def test_what_an_engine_does_not_serve_is_named_by_its_parameter(engine: str) -> None:
    found = unserved(engine, TOOLS)
    assert found is not None
    assert found[0] == "tools"
    assert "decodes plain text" in found[1]


def test_a_remote_server_is_asked_for_everything() -> None:
    assert unserved("openai", dict.fromkeys(RequestFeature, "x"), ["top_k"]) is None


def test_plain_text_is_served_by_all() -> None:
    assert unserved("scripted", {}) is None


def test_a_forwarded_parameter_reaches_no_local_engine() -> None:
    assert (unserved("scripted", {}, ["top_k"]) or ("",))[0] == "top_k"


def test_full_serves_what_one_arm_is_not_made_for() -> None:
    assert set_aside(route(arms=(FULL, SURE)), TOOLS, always) == ("tools",)
    assert set_aside(route(in_force=SURE), TOOLS, always) == ("tools",)


def test_a_policy_that_is_made_for_it_keeps_it() -> None:
    assert set_aside(route(arms=(FULL, BUDGET)), TOOLS, always) == ()


def test_the_server_has_the_last_word_on_what_it_applies() -> None:
    def budgets_are_cut(checkpoint_id: int, policy: Policy) -> bool:
        return policy.name == "full"

    assert set_aside(route(arms=(FULL, BUDGET)), TOOLS, budgets_are_cut) == ("tools",)
    assert set_aside(route(), TOOLS, budgets_are_cut) == ()


def test_plain_text_is_never_set_aside() -> None:
    assert set_aside(route(in_force=SURE, arms=(FULL, SURE)), {}, always) == ()


def test_an_ineligible_request_is_unexposed_and_full_on_the_use_cases_checkpoint() -> None:
    asked = route(in_force=SURE, arms=(FULL, SURE))
    admitted = decide(asked, request(tools=[TOOL]), passes=always)
    assert (admitted.assignment.experiment, admitted.assignment.unit) == (None, "")
    assert (admitted.assignment.arm.policy["name"], admitted.assignment.arm.checkpoint_id) == ("full", 3)
    assert admitted.headers["x-curtail-ineligible"] == "tools"
    assert "x-curtail-variant" not in admitted.headers


def test_a_plain_request_is_exposed_as_ever() -> None:
    admitted = decide(route(arms=(FULL, SURE)), request(), passes=always)
    assert admitted.assignment.experiment is not None
    assert "x-curtail-ineligible" not in admitted.headers


def test_a_forwarded_parameter_of_sampling_leaves_an_experiment_as_it_is() -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "1+1"}], "user": "u", "top_k": 3}
    forward = Dialect(unknown_parameters=UnknownParameters.FORWARD)
    asked = parse_chat_request(orjson.dumps(body), forward)
    admitted = decide(route(arms=(FULL, SURE)), asked)
    assert admitted.assignment.experiment is not None
    served = serve_request(admitted, asked, "")
    assert (served.extra_sampling, served.passthrough) == ({"top_k": 3}, None)


def test_a_local_engine_refuses_before_admission() -> None:
    with pytest.raises(ApiError) as caught:
        decide(route(engine="scripted"), request(response_format={"type": "json_object"}))
    assert (caught.value.status, caught.value.param) == (400, "response_format")
    assert "response_format is not served by this model" in caught.value.message


def test_a_bad_forced_variant_is_refused_whatever_else_the_request_asks_for() -> None:
    with pytest.raises(ApiError, match="x-curtail-force-variant"):
        decide(route(arms=(FULL, SURE)), request(tools=[TOOL]), directions=Directions(forced="nonsense"), passes=always)
