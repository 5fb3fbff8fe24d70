"""Experiments that nobody looks at are served by their control; samples are drawn at admission."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from experiments import wire
from experiments.assignment import is_drawn
from experiments.gateway import routing_cache
from experiments.gateway.admission import admission_record, decide
from experiments.gateway.chat_request import parse_chat_request
from experiments.gateway.errors import ApiError
from experiments.gateway.routing_cache import RoutingCache
from experiments.routing import UNWATCHED_AFTER_SECONDS, Arm, Route, Routing, RunningExperiment

FULL = Arm(1, {"name": "full"}, "v1", 10, "full")
SHORT = Arm(1, {"name": "confidence"}, "v2", 11, "short")


class FakeRedis:
    """The keys that the cache reads."""

    def __init__(self, **keys: Any) -> None:
        self.keys = keys

    async def get(self, key: str) -> Any:
        return self.keys.get(key)

    async def mget(self, keys: list[str]) -> list[Any]:
        return [self.keys.get(key) for key in keys]


def route(**options: Any) -> Route:
    experiment = RunningExperiment(7, 70, "salt", "user", ((0.0, 0.0), (0.0, 1.0)), (FULL, SHORT), **options)
    return Route(1, "arithmetic", "tiny", 0.0, 60.0, Arm(1, {"name": "full"}, "v1"), experiment)


def request(**metadata: str) -> Any:
    import orjson

    body = {"model": "tiny", "messages": [{"role": "user", "content": "1+1"}], "user": "ada", "metadata": metadata}
    return parse_chat_request(orjson.dumps(body))


def cache(phase_started_at: float, looked_at: float | None) -> RoutingCache:
    routes = {"arithmetic": route(phase_started_at=phase_started_at)}
    keys = {wire.looked_key(7): None if looked_at is None else str(looked_at).encode()}
    found = RoutingCache(FakeRedis(**keys), lambda version: Routing(version, {}, routes))
    asyncio.run(found.refresh())
    return found


@pytest.mark.parametrize(
    ("started_ago", "looked_ago", "unwatched"),
    [(10.0, None, False), (400.0, None, True), (400.0, 30.0, False), (900.0, 310.0, True)],
)
def test_an_experiment_is_unwatched_five_minutes_after_its_last_look(
    started_ago: float, looked_ago: float | None, unwatched: bool
) -> None:
    now = time.time()
    found = cache(now - started_ago, None if looked_ago is None else now - looked_ago)
    assert found.unwatched() == (frozenset({7}) if unwatched else frozenset())


def test_news_of_looks_that_stop_coming_count_as_no_look(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    found = cache(now - 900, now)
    monkeypatch.setattr(routing_cache.time, "time", lambda: now + UNWATCHED_AFTER_SECONDS + 1)
    assert found.unwatched() == frozenset({7})


def test_while_unwatched_the_control_serves_and_nobody_is_exposed() -> None:
    admitted = decide(route(), request(), frozenset({7}))
    assert admitted.assignment.arm.policy == {"name": "full"}
    assert (admitted.assignment.experiment, admitted.assignment.unit) == (None, "")
    assert admitted.headers["x-curtail-suspended"] == "no recent look"
    assert "x-curtail-variant" not in admitted.headers


def test_while_watched_the_treatment_serves() -> None:
    admitted = decide(route(), request())
    assert admitted.headers["x-curtail-variant"] == "short"
    assert "x-curtail-suspended" not in admitted.headers


def written(route_: Route, **metadata: str) -> wire.AdmissionRecord:
    parsed = request(**metadata)
    return wire.AdmissionRecord.decode(admission_record(decide(route_, parsed), parsed).encode())


def test_the_admission_says_segment_prompt_and_draws() -> None:
    admission = written(route(audit_every=1, shadow_share=1.0), segment="batch")
    assert (admission.segment, admission.prompt_characters) == ("batch", 3)
    assert (admission.audit_every, admission.audited, admission.shadowed) == (1, True, True)
    assert admission.sampling == {"temperature": 0.0, "top_p": 1.0, "max_tokens": None}


def test_without_an_audit_nothing_is_drawn() -> None:
    admission = written(route())
    assert (admission.segment, admission.audited, admission.shadowed) == ("", False, False)


@pytest.mark.parametrize("segment", ["a b", "x" * 41, "ü"])
def test_a_bad_segment_is_refused(segment: str) -> None:
    with pytest.raises(ApiError, match=r"metadata\.segment must be 1 to 40 letters"):
        request(segment=segment)


def test_a_sample_holds_about_its_share_and_is_independent_of_another() -> None:
    ids = [f"chatcmpl-{i}" for i in range(20_000)]
    audited = {i for i in ids if is_drawn("salt", "audit", i, 1 / 4)}
    shadowed = {i for i in ids if is_drawn("salt", "shadow", i, 1 / 2)}
    assert len(audited) / len(ids) == pytest.approx(0.25, abs=0.01)
    assert len(audited & shadowed) / len(audited) == pytest.approx(0.5, abs=0.03)


def test_the_ends_of_a_share_are_nobody_and_everybody() -> None:
    assert not any(is_drawn("s", "audit", str(i), 0.0) for i in range(100))
    assert all(is_drawn("s", "audit", str(i), 1.0) for i in range(100))
