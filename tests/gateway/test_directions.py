"""Which use case, context and forced variant a request names, and what comes of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from experiments.assignment import Slice
from experiments.gateway.admission import Admitted, admission_record, decide
from experiments.gateway.chat_request import ChatRequest, parse_chat_request
from experiments.gateway.directions import Directions, choose_route
from experiments.gateway.errors import ApiError
from experiments.routing import Arm, KeyGrant, Route, Routing, RunningExperiment
from experiments.services.secrets import forced_variant_signature

FULL = Arm(1, {"name": "full"}, "v1", 10, "full")
SHORT = Arm(1, {"name": "confidence"}, "v2", 11, "short")
BATCH = Arm(1, {"name": "token_budget"}, "v3")
EXPERIMENT = RunningExperiment(7, 70, "salt", "user", ((0.0, 1.0), (1.0, 1.0)), (FULL, SHORT), audit_every=1)


def route(slug: str, model: str = "tiny", **options: Any) -> Route:
    return Route(1, slug, model, 0.0, 60.0, Arm(1, {"name": "full"}, "v1"), **options)


ROUTING = Routing(1, {}, {slug: route(slug) for slug in ("sums", "support", "secret")} | {"tiny": route("tiny")})
GRANT = KeyGrant("sums", frozenset({"serve"}), frozenset({"support", "tiny"}))


def request(model: str = "tiny", **metadata: str) -> ChatRequest:
    body = {"model": model, "messages": [{"role": "user", "content": "1+1"}], "user": "ada", "metadata": metadata}
    return parse_chat_request(orjson.dumps(body))


def admit(parsed: ChatRequest, route_: Route | None = None, **headers: str) -> Admitted:
    running = route("sums", experiments=(EXPERIMENT,), by_context={"batch": BATCH})
    return decide(route_ or running, parsed, directions=Directions(**headers))


# -- use case ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "metadata", "model", "slug"),
    [
        ("", {}, "tiny", "sums"),
        ("", {"use_case": "support"}, "tiny", "support"),
        ("support", {"use_case": "sums"}, "tiny", "support"),
        ("", {}, "support", "support"),
        ("", {"use_case": "sums"}, "support", "sums"),
    ],
)
def test_header_wins_over_metadata_over_model_over_key(
    header: str, metadata: dict[str, str], model: str, slug: str
) -> None:
    found = choose_route(ROUTING, GRANT, request(model, **metadata), Directions(use_case=header))
    assert found.slug == slug


def test_the_keys_own_model_is_not_taken_for_a_use_case_of_that_name() -> None:
    assert choose_route(ROUTING, GRANT, request("tiny")).slug == "sums"


def test_a_model_that_names_a_use_case_out_of_reach_selects_nothing() -> None:
    assert choose_route(ROUTING, GRANT, request("secret")).slug == "sums"


@pytest.mark.parametrize("slug", ["secret", "missing"])
def test_a_use_case_out_of_reach_is_forbidden_whether_it_exists_or_not(slug: str) -> None:
    with pytest.raises(ApiError, match=f"may not name the use case '{slug}'") as caught:
        choose_route(ROUTING, GRANT, request(), Directions(use_case=slug))
    assert (caught.value.status, caught.value.param) == (403, "x-curtail-use-case")


def test_a_key_for_any_use_case_learns_that_one_is_missing() -> None:
    anywhere = KeyGrant("sums", frozenset({"serve"}), any_use_case=True)
    assert choose_route(ROUTING, anywhere, request(use_case="secret")).slug == "secret"
    with pytest.raises(ApiError, match="there is no use case 'missing'") as caught:
        choose_route(ROUTING, anywhere, request(use_case="missing"))
    assert (caught.value.status, caught.value.param) == (404, "metadata.use_case")


# -- context -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "metadata", "segment"),
    [
        ("", {}, ""),
        ("", {"context": "batch"}, "batch"),
        ("realtime", {"context": "batch"}, "realtime"),
        ("realtime", {"segment": "gold"}, "gold"),
    ],
)
def test_the_context_is_the_segment_unless_one_is_given(header: str, metadata: dict[str, str], segment: str) -> None:
    parsed = request(**metadata)
    assert admission_record(admit(parsed, context=header), parsed).segment == segment


def test_the_context_picks_the_policy_in_force_where_no_experiment_takes_the_request() -> None:
    quiet = route("sums", by_context={"batch": BATCH})
    assert admit(request(), quiet, context="batch").assignment.arm == BATCH
    assert admit(request(), context="batch").assignment.arm == FULL


@pytest.mark.parametrize(("header", "param"), [("a b", "x-curtail-context"), ("", "metadata.context")])
def test_a_context_that_is_no_name_is_refused(header: str, param: str) -> None:
    with pytest.raises(ApiError, match=f"{param} must be 1 to 40 letters, digits") as caught:
        admit(request(context="ü"), context=header)
    assert (caught.value.status, caught.value.param) == (400, param)


# -- holdout -------------------------------------------------------------------------------------------


def test_a_held_out_request_says_so_and_is_unexposed() -> None:
    admitted = admit(request(), route("sums", experiments=(EXPERIMENT,), holdout=Slice("h", 0, 10_000)))
    assert admitted.headers["x-curtail-holdout"] == "true"
    assert "x-curtail-variant" not in admitted.headers
    assert admission_record(admitted, request()).unit_hash == ""


# -- forced variant ------------------------------------------------------------------------------------


def forced(variant: str = "short", experiment: int = 7, expires_in: int = 60) -> str:
    expires = int(time.time()) + expires_in
    return f"{experiment}:{variant}:{expires}:{forced_variant_signature(experiment, variant, expires)}"


def test_a_forced_request_gets_the_variant_and_says_so() -> None:
    admitted = admit(request(), forced=forced())
    assert admitted.assignment.arm.policy == SHORT.policy
    shown = {name: admitted.headers[name] for name in ("x-curtail-experiment", "x-curtail-variant", "x-curtail-forced")}
    assert shown == {"x-curtail-experiment": "7", "x-curtail-variant": "short", "x-curtail-forced": "true"}


def test_a_forced_request_counts_nowhere() -> None:
    record = admission_record(admit(request(), forced=forced()), request())
    assert (record.phase_id, record.variant_id, record.unit_hash) == (None, None, "")
    assert (record.audited, record.shadowed) == (False, False)


@pytest.mark.parametrize(
    ("make", "status", "message"),
    [
        (lambda: "7:short", 400, "must be <experiment id>:<variant key>:<expires>:<signature>"),
        (lambda: forced()[:-1] + "x", 400, "must be <experiment id>"),
        (lambda: forced("short").replace("short", "full"), 403, "has a wrong signature"),
        (lambda: forced(expires_in=-1), 403, "must be used before it expires"),
        (
            lambda: forced("other"),
            400,
            "must name a variant of an experiment that runs in use case 'sums', got 'other'",
        ),
        (lambda: forced(experiment=8), 400, "got 'short' of experiment 8"),
    ],
    ids=["short", "no signature", "another variant", "expired", "no such variant", "not running"],
)
def test_a_forced_variant_that_cannot_be_had_is_refused(make: Callable[[], str], status: int, message: str) -> None:
    with pytest.raises(ApiError, match=message) as caught:
        admit(request(), forced=make())
    assert (caught.value.status, caught.value.param) == (status, "x-curtail-force-variant")


# -- headers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], Directions()),
        ([(b"host", b"x"), (b"x-curtail-context", b" batch ")], Directions(context="batch")),
        (
            [(b"x-curtail-force-variant", b"f"), (b"x-curtail-use-case", b"sums")],
            Directions(use_case="sums", forced="f"),
        ),
        ([(b"x-curtail-context", b"\xff")], Directions(context="ÿ")),
    ],
)
def test_directions_are_read_from_the_headers(headers: list[tuple[bytes, bytes]], expected: Directions) -> None:
    assert Directions.of({"headers": headers}) == expected
