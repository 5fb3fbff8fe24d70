"""POST /api/v1/assignments."""

from __future__ import annotations

import json
import time
from datetime import datetime
from typing import Any

import pytest
import redis
from django.utils import timezone

from experiments.gateway.admission import Admitted, admission_record
from experiments.gateway.chat_request import parse_chat_request
from experiments.models import Admission, Experiment, Exposure, UseCase
from experiments.routing import Assignment, assign
from experiments.services.experiments import VariantSpec, create_experiment, start
from experiments.services.routing import load_routing
from tests.api.conftest import Call
from tests.api.elsewhere import assign as ask
from tests.api.elsewhere import assigned, recorded, write_ledger

pytestmark = pytest.mark.usefixtures("redis_client", "fresh_routing")
SHORT = {"name": "confidence", "parameters": {"threshold": 0.9}}


@pytest.fixture
def running(use_case: UseCase) -> Experiment:
    """Full against an early exit, half and half, by conversation."""
    arms = [
        VariantSpec("full", {"name": "full"}, use_case.checkpoint, 0.5, is_control=True),
        VariantSpec("short", SHORT, use_case.checkpoint, 0.5),
    ]
    return start("ada", create_experiment("ada", use_case, "Early exit", arms))


def decided(use_case: UseCase, conversation: str) -> Assignment:
    """What a gateway decides."""
    return assign(load_routing(0).routes[use_case.slug], {"conversation": conversation})


@pytest.mark.parametrize("conversation", ["a", "b", "c", "d", "e", "\u00e9\u4e2d"])
def test_a_unit_gets_the_variant_that_a_gateway_gives_it(
    call: Call, use_case: UseCase, running: Experiment, conversation: str
) -> None:
    found, expected = assigned(call, conversation=conversation), decided(use_case, conversation)
    phase = running.phase
    assert phase is not None
    assert found["variant"] == expected.arm.variant_key
    assert (found["policy"], found["policy_version"]) == (dict(expected.arm.policy), expected.arm.policy_version)
    assert (found["experiment"], found["phase"], found["exposed"]) == (running.pk, phase.pk, True)
    assert (found["use_case"], found["checkpoint"]) == ("arithmetic", "tiny/last")


def test_both_variants_are_given(call: Call, running: Experiment) -> None:
    assert {assigned(call, conversation=str(number))["variant"] for number in range(20)} == {"full", "short"}


def test_the_record_is_the_one_that_a_gateway_writes(
    call: Call, redis_client: redis.Redis, use_case: UseCase, running: Experiment
) -> None:
    found = assigned(call, conversation="c", reference="42", segment="batch", prompt_characters=3)
    route = load_routing(0).routes[use_case.slug]
    (record,) = recorded(redis_client)
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "2+2"}],
        "metadata": {"conversation_id": "c", "reference": "42", "segment": "batch"},
    }
    admitted = Admitted(found["id"], route, decided(use_case, "c"), record.admitted_at, record.deadline_at)
    by_gateway = admission_record(admitted, parse_chat_request(json.dumps(body).encode()))
    plain = {name: getattr(by_gateway, name) for name in by_gateway.__slots__ if name != "sampling"}
    assert {name: getattr(record, name) for name in plain} == plain
    assert record.sampling == {}  # nobody here knows what it will be decoded with


def test_the_exposure_is_stored_with_the_admission(call: Call, redis_client: redis.Redis, running: Experiment) -> None:
    found = assigned(call, conversation="c")
    write_ledger(redis_client)
    exposure = Exposure.objects.get()
    assert (exposure.admission_id, exposure.variant.key) == (found["id"], found["variant"])


def test_a_unit_without_its_id_gets_the_policy_in_force(
    call: Call, redis_client: redis.Redis, running: Experiment
) -> None:
    found = assigned(call, user="ada")
    assert (found["experiment"], found["variant"], found["exposed"]) == (None, None, False)
    assert found["policy"] == {"name": "full"}
    write_ledger(redis_client)
    assert (Admission.objects.count(), Exposure.objects.count()) == (1, 0)


def test_metadata_stand_in_for_the_fields(call: Call, redis_client: redis.Redis, running: Experiment) -> None:
    assigned(call, metadata={"conversation_id": "c", "segment": "batch", "reference": "42"})
    assigned(call, conversation="c", segment="batch", reference="42")
    by_metadata, by_fields = recorded(redis_client)
    for name in ("unit_hash", "segment", "reference", "variant_id"):
        assert getattr(by_metadata, name) == getattr(by_fields, name)


def test_without_looks_the_control_serves_unexposed(
    call: Call, running: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    phase = running.phase
    assert phase is not None
    phase.started_at = timezone.datetime.fromtimestamp(time.time() - 301, tz=timezone.get_current_timezone())
    phase.save()
    for number in range(8):
        found = assigned(call, conversation=str(number))
        assert (found["variant"], found["exposed"], found["suspended"]) == (None, False, True)


def test_the_deadline_is_the_use_cases_unless_another_is_declared(call: Call, use_case: UseCase) -> None:
    def seconds(found: dict[str, Any]) -> float:
        times = (datetime.fromisoformat(found[name]) for name in ("admitted_at", "deadline_at"))
        admitted, deadline = times
        return (deadline - admitted).total_seconds()

    assert seconds(assigned(call, user="a")) == pytest.approx(use_case.deadline_seconds)
    assert seconds(assigned(call, user="a", deadline_seconds=604_800)) == pytest.approx(604_800)


@pytest.mark.parametrize(
    ("body", "field", "said"),
    [
        ({"deadline_seconds": 604_801}, "deadline_seconds", "less than or equal to 604800"),
        ({"deadline_seconds": 0}, "deadline_seconds", "greater than 0"),
        ({"use_case": "support"}, "use_case", "use_case must be 'arithmetic', this key's, got 'support'"),
        ({"segment": "a b"}, "segment", "must be 1 to 40 letters, digits, . - and _, got 'a b'"),
        ({"reference": " "}, "reference", "must not be empty"),
        ({"conversation": "a\x00"}, "conversation", "must not hold the character NUL"),
        ({"conversation": ""}, "conversation", "at least 1 character"),
        ({"prompt_characters": -1}, "prompt_characters", "greater than or equal to 0"),
        ({"colour": "red"}, "colour", "not permitted"),
    ],
)
def test_bad_input_is_refused_and_records_nothing(
    call: Call, redis_client: redis.Redis, body: dict[str, Any], field: str, said: str
) -> None:
    answer = ask(call, **body)
    assert answer.status_code == 422
    assert field in answer.content.decode()
    assert said in answer.content.decode()
    assert recorded(redis_client) == []


@pytest.mark.parametrize("value", ['"\\ud800"', "NaN", "[" * 100_000])
def test_a_body_that_is_no_json_by_the_standard_is_refused(
    call: Call, redis_client: redis.Redis, running: Experiment, value: str
) -> None:
    body = f'{{"conversation": {value}}}'
    assert call("POST", "/assignments", scopes=["serve"], data=body, content_type="application/json").status_code == 400
    assert recorded(redis_client) == []


@pytest.mark.parametrize("scopes", [["label"], ["manage"]])
def test_a_key_without_the_scope_is_refused(call: Call, redis_client: redis.Redis, scopes: list[str]) -> None:
    assert ask(call, scopes=scopes, conversation="a").status_code == 403
    assert recorded(redis_client) == []
