"""A use case that keeps nothing: the whole path, and not a word of it in Redis, on its disk, in tables or in logs."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from demo.scenario import MODEL
from experiments import wire
from experiments.models import Completion, Label, UseCase
from experiments.policies import Exit, ExitReason
from experiments.services.off_thread import off_thread
from experiments.services.redis_clients import async_redis
from experiments.services.registry import change_retention
from experiments.services.retention import ledger_entry
from experiments.services.sealing import unseal
from tests.service_layer.test_retention import places
from tests.system.conftest import Installation, running, wait_for
from workers.checkpoints import hosted_checkpoints
from workers.engines.base import (
    Delta,
    DeltaKind,
    EngineError,
    Finished,
    FinishReason,
    GenerationRequest,
    GenerationResult,
    TokenCounts,
)
from workers.serving import EngineHost

PROMPT, THOUGHT, ANSWER, REFERENCE = "Xylophon", "Glockenspiel", "Marimba", "Vibraphon"
MARKS = (PROMPT, THOUGHT, ANSWER, REFERENCE)


class Musical:
    """Thinks and answers with marks; fails with the prompt in its words when told to."""

    max_concurrency = 4
    alive = True

    async def start(self) -> None:
        return None

    async def close(self) -> None:
        return None

    def cancel(self, request_id: str) -> None:
        return None

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Delta | Finished]:
        prompt = request.messages[-1]["content"]
        if prompt.startswith("fail"):
            raise EngineError(f"can't read {prompt!r}")
        if request.stream:
            yield Delta(DeltaKind.THINKING, THOUGHT)
            yield Delta(DeltaKind.ANSWER, ANSWER)
        left = Exit(ExitReason.CONFIDENT, 5, ANSWER)
        counts = TokenCounts(3, 5, 2, 4, 1)
        yield Finished(GenerationResult(FinishReason.STOP, THOUGHT, ANSWER, ANSWER, left, 5, counts, 2, 0.0))


@pytest.fixture
def private(registered: UseCase, redis_client: redis.Redis, request: pytest.FixtureRequest) -> Iterator[Installation]:
    """Everything running, with nothing kept."""
    change_retention("test", registered, request.param)
    registered.refresh_from_db()
    host = EngineHost(async_redis, off_thread(hosted_checkpoints), lambda _: Musical())
    with running(registered, redis_client, host) as started:
        yield started


@contextmanager
def append_only_file(client: redis.Redis) -> Iterator[Path]:
    """Redis writes all commands to files in this folder while the block lasts."""
    folder = Path(client.config_get("dir")["dir"])
    client.config_set("appendonly", "yes")
    wait_for(lambda: not client.info("persistence")["aof_rewrite_in_progress"] and any(folder.glob("appendonly*")))
    try:
        yield folder
    finally:
        client.config_set("appendonly", "no")


@contextmanager
def monitored(client: redis.Redis) -> Iterator[list[str]]:
    """Every command that Redis is given while the block lasts; the list is whole after it."""
    commands: list[str] = []
    with ExitStack() as stack:
        monitor = stack.enter_context(client.monitor())

        def listen() -> None:
            for command in monitor.listen():
                commands.append(command["command"])
                if command["command"].startswith("ECHO"):
                    return

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield commands
        finally:
            client.echo("end")
            thread.join()


def ask(installation: Installation, content: str, **options: Any) -> httpx.Response:
    body = {"model": MODEL, "messages": [{"role": "user", "content": content}], **options}
    headers = {"authorization": f"Bearer {installation.token}"}
    return httpx.post(f"{installation.url}/v1/chat/completions", json=body, headers=headers, timeout=30)


@pytest.mark.parametrize("private", ["hash", "drop"], indirect=True)
def test_not_a_word_is_left_anywhere(private: Installation, caplog: pytest.LogCaptureFixture) -> None:
    with append_only_file(private.redis) as folder, monitored(private.redis) as commands:
        whole = ask(private, PROMPT, metadata={"reference": ANSWER})
        streamed = ask(private, PROMPT, metadata={"reference": REFERENCE}, stream=True)
        failed = ask(private, f"fail {PROMPT}")
        wait_for(lambda: Completion.objects.count() == 3 and Label.objects.exclude(correct=None).count() == 2)
        wait_for(lambda: private.redis.xlen(wire.LEDGER_STREAM) == 0)
        files = b"".join(path.read_bytes() for path in folder.rglob("*.aof*"))
    # The client gets all of it.
    message = whole.json()["choices"][0]["message"]
    assert (message["reasoning"], message["content"]) == (THOUGHT, ANSWER)
    assert THOUGHT in streamed.text
    assert ANSWER in streamed.text
    assert (failed.status_code, PROMPT in failed.text) == (500, True)
    # And it is graded.
    assert sorted(Label.objects.values_list("correct", flat=True)) == [False, True]
    assert sorted(Completion.objects.values_list("error", flat=True)) == ["", "", "engine_error"]
    for kind in ("XADD curtail:requests", "XADD curtail:ledger", "XADD curtail:replies"):
        assert any(command.startswith(kind) for command in commands), kind
    for mark in MARKS:
        assert places(mark) == []
        assert mark not in "\n".join(commands)
        assert mark.encode() not in files
        assert mark not in caplog.text
    assert places("sealed:1:") == []
    assert b"curtail:ledger" in files


@pytest.mark.parametrize("private", ["drop"], indirect=True)
def test_dead_letters_are_sealed(private: Installation) -> None:
    unknown = wire.AdmissionRecord(
        "a", 0, 0, None, None, "", {}, "v", REFERENCE, 0.0, 0.0, retention="drop"
    )  # of no use case

    private.redis.xadd(*ledger_entry(unknown))
    wait_for(lambda: private.redis.xlen(wire.LEDGER_DEAD_STREAM) == 1)
    ((_, fields),) = private.redis.xrange(wire.LEDGER_DEAD_STREAM)
    assert REFERENCE.encode() not in fields[wire.PAYLOAD]
    assert wire.AdmissionRecord.decode(unseal(fields[wire.PAYLOAD])) == unknown
