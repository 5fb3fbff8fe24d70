"""Serving by an engine in the gateway's own loop: what is in the ledger, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
import redis.exceptions

from experiments import wire
from experiments.gateway.admission import Admitted, decide
from experiments.gateway.answering import Events
from experiments.gateway.chat_request import ChatRequest, parse_chat_request
from experiments.gateway.errors import ApiError
from experiments.gateway.remote import RemoteServing
from experiments.gateway.stream_writer import Calls, StreamWriter
from experiments.routing import Arm, Route
from workers.engines.base import EngineError, ThinkingProfile
from workers.engines.scripted_engine import Script, ScriptedAnswer, ScriptedEngine
from workers.served import ServedCheckpoint

CHECKPOINT = ServedCheckpoint(1, "m/release", "", "openai", ThinkingProfile())
ROUTE = Route(1, "arithmetic", "m", 0.0, 60.0, Arm(1, {"name": "full", "parameters": {}}, "v1"))


class Streams:
    """Redis' streams as far as a writer needs them; each write waits until it may go on."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, Any]] = []
        self.may_write = asyncio.Event()
        self.may_write.set()
        self.failures = 0

    async def __call__(self, calls: Calls) -> None:
        await self.may_write.wait()
        if self.failures:
            self.failures -= 1
            raise redis.exceptions.ConnectionError("gone")
        self.entries += [entry for entries in calls for entry in entries]

    def kinds(self) -> list[str]:
        return [fields[wire.KIND] for _, fields in self.entries]

    def completion(self) -> wire.CompletionRecord:
        (fields,) = [fields for _, fields in self.entries if fields[wire.KIND] == "completion"]
        return wire.CompletionRecord.decode(fields[wire.PAYLOAD])


@asynccontextmanager
async def serving(
    streams: Streams, script: Script, seconds_per_step: float = 0.0, engine: type[ScriptedEngine] = ScriptedEngine
) -> AsyncIterator[RemoteServing]:
    writer = StreamWriter(streams)
    writing = asyncio.create_task(writer.write_forever())

    def make(checkpoint: ServedCheckpoint) -> ScriptedEngine:
        return engine(lambda _: script, checkpoint.profile, seconds_per_step=seconds_per_step)

    found = RemoteServing(writer, lambda: [CHECKPOINT], make)
    await found.refresh()
    try:
        yield found
    finally:
        await found.close()
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)


def asked(*, stream: bool = True) -> tuple[Admitted, ChatRequest]:
    body = {"model": "m", "messages": [{"role": "user", "content": "1+1"}], "stream": stream}
    request = parse_chat_request(orjson.dumps(body))
    return decide(ROUTE, request), request


def script(length: int = 3) -> Script:
    return Script(tuple(f"w{n} " for n in range(length)), (ScriptedAnswer(0, ("7",), 1.0),))


async def events_of(events: Events) -> list[wire.ReplyEvent]:
    found = [await events.get()]
    while found[-1].kind not in ("finished", "error"):
        found.append(await events.get())
    return found


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 10))


def test_the_admission_and_the_completion_are_in_the_ledger_when_the_last_event_comes() -> None:
    async def test() -> None:
        streams = Streams()
        async with serving(streams, script()) as remote, remote.serve(*asked()) as events:
            found = await events_of(events)
            assert streams.kinds() == ["admission", "completion"]
            assert "".join(event.body for event in found if event.kind == "thinking") == "w0 w1 w2 "
            assert found[-1].body["text"] == "7"

    run(test())


def test_the_client_gets_nothing_before_the_exposure_is_in_the_ledger() -> None:
    async def test() -> None:
        streams = Streams()
        async with serving(streams, script()) as remote:
            streams.may_write.clear()
            given = asyncio.create_task(take(remote))
            await asyncio.sleep(0.05)
            assert not given.done()
            streams.may_write.set()
            assert (await given)[-1].kind == "finished"

    async def take(remote: RemoteServing) -> list[wire.ReplyEvent]:
        async with remote.serve(*asked()) as events:
            return await events_of(events)

    run(test())


def test_the_last_event_waits_for_the_record_while_redis_is_away() -> None:
    async def test() -> None:
        streams = Streams()
        async with serving(streams, script(), seconds_per_step=0.01) as remote, remote.serve(*asked()) as events:
            streams.failures = 2
            assert (await events_of(events))[-1].kind == "finished"
            assert streams.failures == 0
            assert streams.kinds() == ["admission", "completion"]

    run(test())


def test_a_request_whose_admission_cannot_be_written_is_not_decoded() -> None:
    async def test() -> None:
        streams = Streams()
        streams.failures = 1
        async with serving(streams, script(500), seconds_per_step=0.01) as remote:
            with pytest.raises(redis.exceptions.ConnectionError, match="gone"):
                async with remote.serve(*asked()):
                    pass
            await asyncio.sleep(0.05)
            assert not any(serving.tasks for serving in remote._by_id.values())
        assert streams.entries == []

    run(test())


def test_a_client_that_leaves_ends_the_decoding_and_leaves_a_record() -> None:
    async def test() -> None:
        streams = Streams()
        async with serving(streams, script(10_000), seconds_per_step=0.001) as remote:
            admitted, request = asked()
            async with remote.serve(admitted, request) as events:
                await events.get()
                assert remote.cancel(admitted.id)
                assert (await events_of(events))[-1].kind == "error"
        assert streams.completion().outcome == "cancelled"

    run(test())


def test_an_engine_that_breaks_gives_an_error_and_a_record() -> None:
    class Broken(ScriptedEngine):
        async def generate(self, request: Any) -> AsyncIterator[Any]:
            raise KeyError("a detail that is nobody's business")
            yield

    async def test() -> None:
        streams = Streams()
        async with serving(streams, script(), engine=Broken) as remote, remote.serve(*asked()) as events:
            (last,) = await events_of(events)
            assert (last.kind, last.body["status"], last.body["message"]) == ("error", 500, "decoding failed: KeyError")
        assert streams.completion().outcome == "error"

    run(test())


def test_without_its_engine_a_checkpoint_is_refused_before_admission() -> None:
    async def test() -> None:
        streams = Streams()

        def make(checkpoint: ServedCheckpoint) -> ScriptedEngine:
            raise EngineError("THE_KEY must hold the API key")

        remote = RemoteServing(StreamWriter(streams), lambda: [CHECKPOINT], make)
        await remote.refresh()
        assert remote.serves(1)
        with pytest.raises(ApiError, match="cannot be served") as error:
            async with remote.serve(*asked()):
                pass
        assert error.value.status == 503
        assert streams.entries == []

    run(test())


def test_an_engine_that_is_let_go_finishes_its_requests() -> None:
    async def test() -> None:
        streams, listed = Streams(), [CHECKPOINT]
        writer = StreamWriter(streams)
        writing = asyncio.create_task(writer.write_forever())
        engine = ScriptedEngine(lambda _: script(50), CHECKPOINT.profile, seconds_per_step=0.001)
        remote = RemoteServing(writer, lambda: listed, lambda _: engine)
        await remote.refresh()
        async with remote.serve(*asked()) as events:
            listed.clear()
            await remote.refresh()
            assert not remote.serves(1)
            assert (await events_of(events))[-1].kind == "finished"
        await remote.close()
        writing.cancel()

    run(test())
