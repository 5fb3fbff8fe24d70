"""Requests to a model behind a remote server: from the client through the gateway alone to the stored completion."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
import redis

from experiments import wire
from experiments.models import Admission, Completion, UseCase
from experiments.services.registry import (
    change_retention,
    register_checkpoint,
    register_model,
    register_use_case,
)
from tests.engines.openai_server import Behaviour, ScriptedServer, settling
from tests.system.conftest import Installation, running, wait_for

FULL = {"name": "full"}
BUDGET = {"name": "token_budget", "parameters": {"max_thinking_tokens": 20}}


@contextmanager
def served(server: ScriptedServer) -> Iterator[str]:
    """The server in a thread with a loop of its own; its base URL."""
    started: threading.Event = threading.Event()
    found: list[Any] = []

    async def serve() -> None:
        async with server.running() as url:
            ended = asyncio.Event()
            found.extend((url, asyncio.get_running_loop(), ended))
            started.set()
            await ended.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="upstream")
    thread.start()
    started.wait()
    try:
        yield found[0]
    finally:
        found[1].call_soon_threadsafe(found[2].set)
        thread.join()


@pytest.fixture
def upstream() -> ScriptedServer:
    """A server that thinks and answers 7."""
    return ScriptedServer({"3+4": settling(7)}, Behaviour())


def remote_use_case(folder: Path, url: str, **server: Any) -> UseCase:
    """A use case whose model is behind ``url``."""
    described = {"base_url": url, "model": "upstream-model", "reasoning_fields": True, "usage": "chunks", **server}
    (folder / "server.json").write_text(json.dumps({"continues": "chat", **described}))
    model = register_model("test", name="remote", engine="openai", step_boundary="\n", max_context_tokens=600)
    checkpoint = register_checkpoint("test", model, "release", str(folder))
    return register_use_case(
        "test",
        "remote",
        name="Remote",
        policy=FULL,
        checkpoint=checkpoint,
        margin=0.05,
        min_saving=0.1,
        deadline_seconds=30.0,
    )


@pytest.fixture
def installation(
    transactional_db: None, redis_client: redis.Redis, upstream: ScriptedServer, tmp_path: Path
) -> Iterator[Installation]:
    """A gateway and a ledger writer; no engine host."""
    with served(upstream) as url, running(remote_use_case(tmp_path, url), redis_client) as started:
        yield started


def ask(installation: Installation, **options: Any) -> Any:
    with openai.OpenAI(api_key=installation.token, base_url=f"{installation.url}/v1", max_retries=0) as api:
        messages = [{"role": "user", "content": "3+4"}]
        answer = api.chat.completions.create(model="remote", messages=messages, **options)
        return list(answer) if options.get("stream") else answer


def stored(request_id: str) -> Completion:
    wait_for(lambda: Completion.objects.filter(pk=request_id).exists())
    return Completion.objects.get(pk=request_id)


def test_a_request_is_answered_and_stored_without_an_engine_host(installation: Installation) -> None:
    answer = ask(installation, metadata={"reference": "7"})
    assert answer.choices[0].message.content == "7"
    completion = stored(answer.id)
    assert (completion.outcome, completion.text) == ("answered", "7")
    assert completion.thinking == answer.choices[0].message.reasoning
    assert completion.decoded_tokens == answer.usage.completion_tokens
    assert not installation.redis.exists(wire.request_stream(installation.checkpoint.pk))


def test_the_reference_never_reaches_the_upstream(installation: Installation, upstream: ScriptedServer) -> None:
    ask(installation, metadata={"reference": "the-reference-answer"})
    assert "the-reference-answer" not in json.dumps([seen.body for seen in upstream.seen])


def test_a_stream_brings_thinking_and_answer_apart(installation: Installation) -> None:
    deltas = [chunk.choices[0].delta for chunk in ask(installation, stream=True) if chunk.choices]
    thought = "".join(getattr(delta, "reasoning", None) or "" for delta in deltas)
    assert thought == "".join(f"w{n:02d}\n" for n in range(30))
    assert "".join(delta.content or "" for delta in deltas) == "7"


def test_an_experiment_exits_early_on_the_upstream(installation: Installation) -> None:
    experiment = installation.start_experiment(BUDGET, unit="user")
    answers = [ask(installation, user=f"u{n}") for n in range(12)]
    by_variant = {answer.curtail["variant"]: answer.usage for answer in answers}
    assert set(by_variant) == {"full", "treatment"}
    assert by_variant["treatment"].completion_tokens < by_variant["full"].completion_tokens
    wait_for(lambda: Admission.objects.filter(phase=experiment.phase).count() == 12)


def test_a_client_that_leaves_stops_the_upstream(installation: Installation, upstream: ScriptedServer) -> None:
    upstream.behaviour.pause_seconds = 0.05
    with openai.OpenAI(api_key=installation.token, base_url=f"{installation.url}/v1", max_retries=0) as api:
        messages: Any = [{"role": "user", "content": "3+4"}]
        with api.chat.completions.create(model="remote", messages=messages, stream=True) as answer:
            request_id = next(iter(answer)).id
    assert stored(request_id).outcome == "cancelled"
    wait_for(lambda: upstream.streaming == 0)


def test_an_upstream_that_fails_gives_an_error_and_a_record(
    installation: Installation, upstream: ScriptedServer
) -> None:
    upstream.behaviour.status, upstream.behaviour.error = 400, b'{"error": {"message": "no"}}'
    with pytest.raises(openai.APIStatusError) as error:
        ask(installation)
    assert stored(error.value.response.headers["x-request-id"]).outcome == "error"


def test_a_model_that_is_registered_while_the_gateway_runs_is_served(
    installation: Installation, upstream: ScriptedServer, tmp_path: Path
) -> None:
    (elsewhere := tmp_path / "second").mkdir()
    (elsewhere / "server.json").write_text((tmp_path / "server.json").read_text())
    second = register_checkpoint("test", installation.checkpoint.model, "second", str(elsewhere))
    UseCase.objects.filter(pk=installation.use_case.pk).update(checkpoint=second)
    version = int(installation.redis.get(wire.CONFIG_VERSION_KEY) or 0)
    installation.redis.publish(wire.CONFIG_CHANNEL, installation.redis.incr(wire.CONFIG_VERSION_KEY))
    wait_for(lambda: installation.gateway._routing.current.version > version)
    assert ask(installation).choices[0].message.content == "7"
    wait_for(lambda: Admission.objects.filter(checkpoint=second).exists())


def test_of_a_use_case_that_drops_texts_nothing_is_stored_or_logged(
    installation: Installation, upstream: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    change_retention("test", installation.use_case, "drop")
    wait_for(lambda: installation.gateway._routing.current.routes["remote"].retention == "drop")
    answer = ask(installation)
    assert answer.choices[0].message.content == "7"
    upstream.behaviour.status, upstream.behaviour.error = 400, b'{"error": {"message": "what is 3+4 to me?"}}'
    with pytest.raises(openai.APIStatusError, match="3\\+4") as refused:
        ask(installation)
    for request_id in (answer.id, refused.value.response.headers["x-request-id"]):
        completion = stored(request_id)
        assert (completion.messages, completion.thinking, completion.text) == (None, "", "")
        assert "3+4" not in completion.error
    assert "3+4" not in caplog.text
