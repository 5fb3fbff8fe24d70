"""What the gate counts, and what it refuses with which words."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import orjson
import pytest

from experiments.gateway.admission import Admitted, decide
from experiments.gateway.chat_request import ChatRequest, parse_chat_request
from experiments.gateway.errors import ApiError
from experiments.gateway.http import BoundedReceive, read_body
from experiments.gateway.limits import Gate, Limits
from experiments.gateway.observing import Observation
from experiments.routing import Arm, Route

CHECKPOINT = 3
ROUTE = Route(1, "sums", "tiny", 0.0, 60.0, Arm(CHECKPOINT, {"name": "full"}, "v1"))


def seen(key: str = "ck_a", content_length: int | None = None) -> Observation:
    return Observation(0.0, 0.0, "POST", "/v1/chat/completions", content_length, key)


def request(prompt: str = "1+1") -> ChatRequest:
    return parse_chat_request(orjson.dumps({"model": "tiny", "messages": [{"role": "user", "content": prompt}]}))


def admitted() -> Admitted:
    return decide(ROUTE, request())


def refusal(gate: Gate, observation: Observation, asked: ChatRequest | None = None) -> ApiError:
    with pytest.raises(ApiError) as caught, gate.admit(observation, admitted(), asked or request()):
        pass
    return caught.value


def test_a_full_queue_is_refused_with_a_time_to_come_back() -> None:
    gate = Gate(Limits(max_queue=2))
    with gate.admit(seen(), admitted(), request()), gate.admit(seen(), admitted(), request()):
        error = refusal(gate, seen())
    assert (error.status, error.code) == (429, "queue_full")
    assert int(error.headers["retry-after"]) >= 1
    with gate.admit(seen(), admitted(), request()):
        assert gate.in_flight == {CHECKPOINT: 1}


def test_requests_of_other_gateways_count() -> None:
    gate = Gate(Limits(max_queue=10))
    gate.measured({CHECKPOINT: 10}, 1.0)
    assert refusal(gate, seen()).code == "queue_full"


def test_what_this_gateway_did_since_the_last_measurement_counts() -> None:
    gate = Gate(Limits(max_queue=10))
    with gate.admit(seen(), admitted(), request()):
        gate.measured({CHECKPOINT: 4}, 1.0)
        assert gate.depths == {CHECKPOINT: 4}
        with gate.admit(seen(), admitted(), request()):
            assert gate.depths == {CHECKPOINT: 5}
    assert gate.depths == {CHECKPOINT: 3}


def test_the_time_to_come_back_follows_the_rate_of_completions() -> None:
    waits = []
    for per_second in (1, 100):
        gate = Gate(Limits(max_queue=200))
        for _ in range(40):
            for _ in range(per_second):
                with gate.admit(seen(), admitted(), request()):
                    pass
            gate.measured({CHECKPOINT: 0}, 1.0)
        gate.measured({CHECKPOINT: 200}, 1.0)
        waits.append(int(refusal(gate, seen()).headers["retry-after"]))
    # A tenth of 200 places at 0.8 and at 80 a second: the rate has just seen one second without completions.
    assert waits == [26, 1]


def test_one_keys_requests_leave_room_for_anothers() -> None:
    gate = Gate(Limits(max_concurrency_per_key=1))
    with gate.admit(seen("ck_a"), admitted(), request()):
        error = refusal(gate, seen("ck_a"))
        with gate.admit(seen("ck_b"), admitted(), request()):
            pass
    assert (error.status, error.code) == (429, "concurrency_limit_exceeded")
    with gate.admit(seen("ck_a"), admitted(), request()):
        pass


def test_a_long_prompt_is_refused_by_its_characters() -> None:
    error = refusal(Gate(Limits(max_prompt_characters=5)), seen(), request("1+1+1+"))
    assert (error.status, error.code, error.param) == (400, "context_length_exceeded", "messages")
    assert "at most 5 characters in all, got 6" in error.message


def test_a_refused_request_is_not_counted() -> None:
    gate = Gate(Limits(max_prompt_characters=1))
    refusal(gate, seen())
    assert gate.in_flight == {CHECKPOINT: 0}
    assert not gate._per_key


def test_too_many_open_requests_are_refused() -> None:
    gate = Gate(Limits(max_open_requests=2))
    with ExitStack() as held:
        held.enter_context(gate.open(seen()))
        held.enter_context(gate.open(seen()))
        with pytest.raises(ApiError) as caught, gate.open(seen()):
            pass
    assert (caught.value.status, caught.value.code) == (429, "overloaded")
    assert gate.open_requests == 0


def test_a_draining_gateway_refuses_and_closes_the_connection() -> None:
    gate = Gate(Limits(), draining=True)
    with pytest.raises(ApiError) as caught, gate.open(seen()):
        pass
    assert caught.value.status == 503
    assert caught.value.headers["connection"] == "close"
    assert int(caught.value.headers["retry-after"]) >= 1


def test_a_body_declared_too_large_is_refused_by_the_head_alone() -> None:
    with pytest.raises(ApiError) as caught, Gate(Limits(max_body_bytes=10)).open(seen(content_length=11)):
        pass
    assert (caught.value.status, caught.value.code) == (413, "request_too_large")
    assert "at most 10 bytes, got 11" in caught.value.message


def messages(*parts: bytes) -> Any:
    rest = list(parts)

    async def receive() -> dict[str, Any]:
        part = rest.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(rest)}

    return receive


async def test_a_body_in_parts_is_joined() -> None:
    assert await read_body(BoundedReceive(messages(b"ab", b"cd"), 4)) == b"abcd"


async def test_a_body_that_grows_too_large_is_refused() -> None:
    with pytest.raises(ApiError, match="at most 3 bytes") as caught:
        await read_body(BoundedReceive(messages(b"ab", b"cd"), 3))
    assert caught.value.status == 413
