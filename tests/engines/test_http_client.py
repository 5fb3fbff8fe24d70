"""The HTTP client of remote servers: connections are kept, and broken ones are noticed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from workers.engines.openai_engine.http_client import Cut, HttpClient, Silent, Unreachable

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HEAD = b"HTTP/1.1 200 OK\r\n"


class Server:
    """A server whose connections do what a test says."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.connections = 0
        self.requests: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                await self.answer(reader, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def talking(answer: Answer, **limits: float) -> AsyncIterator[tuple[Server, HttpClient]]:
    server = Server(answer)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    client = HttpClient(
        f"http://127.0.0.1:{port}/v1", {"x-test": "1"}, **{"connect_seconds": 5.0, "silence_seconds": 5.0, **limits}
    )
    try:
        yield server, client
    finally:
        await client.close()
        listening.close()
        await listening.wait_closed()


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 20))


def sends(*parts: bytes, close: bool = False) -> Answer:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        if close:
            writer.close()

    return answer


WHOLE = HEAD + b"content-length: 5\r\n\r\nhello"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        sends(WHOLE),
        sends(*(WHOLE[at : at + 1] for at in range(len(WHOLE)))),
        sends(CHUNKED, b"2\r\nhe\r\n", b"3\r\nllo\r\n0\r\n\r\n"),
        sends(HEAD + b"\r\nhel", b"lo", close=True),
    ],
    ids=["length", "byte by byte", "chunks", "until the connection ends"],
)
def test_a_body_is_read_however_it_is_framed(answer: Answer) -> None:
    async def test() -> None:
        async with talking(answer) as (_, client):
            response = await client.post("/x", b"{}")
            assert (response.status, await response.read(100)) == (200, b"hello")

    run(test())


def test_a_request_names_path_host_length_and_headers() -> None:
    async def test() -> None:
        async with talking(sends(WHOLE)) as (server, client):
            await (await client.post("/chat", b'{"a":1}')).read(100)
            (request,) = server.requests
            assert request.startswith(b"POST /v1/chat HTTP/1.1\r\ncontent-length: 7\r\nhost: 127.0.0.1:")
            assert b"\r\nx-test: 1\r\n\r\n" in request
            assert request.endswith(b'{"a":1}')

    run(test())


def test_a_connection_is_used_again_after_its_answer() -> None:
    async def test() -> None:
        async with talking(sends(WHOLE)) as (server, client):
            for _ in range(3):
                await (await client.post("/x", b"")).read(100)
            assert server.connections == 1

    run(test())


def test_an_answer_that_is_finished_before_its_end_keeps_the_connection_once_the_end_has_come() -> None:
    async def test() -> None:
        async with talking(sends(CHUNKED, b"2\r\nhe\r\n", b"0\r\n\r\n")) as (server, client):
            for _ in range(3):
                response = await client.post("/x", b"")
                await anext(response.pieces())
                response.finish()
                while not client._idle:
                    await asyncio.sleep(0.001)
            assert server.connections == 1

    run(test())


def test_an_answer_that_is_closed_before_its_end_closes_the_connection() -> None:
    async def test() -> None:
        left = asyncio.Event()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(CHUNKED + b"2\r\nhe\r\n")
            await writer.drain()
            assert await reader.read(1) == b""
            left.set()

        async with talking(answer) as (_, client):
            response = await client.post("/x", b"")
            assert await anext(response.pieces()) == b"he"
            response.close()
            await left.wait()

    run(test())


def test_a_kept_connection_that_the_server_closed_meanwhile_costs_nothing_but_a_new_one() -> None:
    async def test() -> None:
        async with talking(sends(WHOLE, close=True)) as (server, client):
            for _ in range(3):
                assert await (await client.post("/x", b"")).read(100) == b"hello"
            assert server.connections == 3

    run(test())


def test_a_refused_connection_is_unreachable() -> None:
    async def test() -> None:
        async with talking(sends(WHOLE)) as (_, client):
            pass
        fresh = HttpClient(f"http://127.0.0.1:{client._port}", {}, connect_seconds=5, silence_seconds=5)
        with pytest.raises(Unreachable):
            await fresh.post("/x", b"")

    run(test())


def test_a_connection_that_breaks_before_an_answer_is_unreachable() -> None:
    async def test() -> None:
        async with talking(sends(close=True)) as (_, client):
            with pytest.raises(Unreachable):
                await client.post("/x", b"")

    run(test())


@pytest.mark.parametrize(
    "answer", [sends(CHUNKED, b"5\r\nhe", close=True), sends(HEAD + b"content-length: 9\r\n\r\nhe", close=True)]
)
def test_a_connection_that_breaks_within_an_answer_is_cut(answer: Answer) -> None:
    async def test() -> None:
        async with talking(answer) as (_, client):
            response = await client.post("/x", b"")
            with pytest.raises(Cut):
                await response.read(100)

    run(test())


def test_what_is_no_http_is_cut() -> None:
    async def test() -> None:
        async with talking(sends(b"SSH-2.0-OpenSSH_9\r\n\r\n")) as (_, client):
            with pytest.raises(Cut, match="no HTTP"):
                await client.post("/x", b"")

    run(test())


def test_a_server_that_says_nothing_is_silent() -> None:
    async def test() -> None:
        async with talking(sends(CHUNKED), silence_seconds=0.05) as (_, client):
            response = await client.post("/x", b"")
            with pytest.raises(Silent):
                await response.read(100)

    run(test())


def test_a_reader_that_falls_behind_makes_the_server_wait() -> None:
    """More than all buffers of the kernel hold, so the server can only send it when it is read."""

    async def test() -> None:
        size, sent = 64 << 20, asyncio.Event()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(HEAD + b"content-length: %d\r\n\r\n" % size)
            for _ in range(64):
                writer.write(bytes(1 << 20))
                await writer.drain()
            sent.set()

        async with talking(answer) as (_, client):
            response = await client.post("/x", b"")
            await asyncio.sleep(0.2)
            assert not sent.is_set()
            assert len(await response.read(size + 1)) == size

    run(test())


def test_an_interim_answer_is_passed_over() -> None:
    async def test() -> None:
        async with talking(sends(b"HTTP/1.1 100 Continue\r\n\r\n" + WHOLE)) as (_, client):
            response = await client.post("/x", b"")
            assert (response.status, await response.read(100)) == (200, b"hello")

    run(test())


def test_closing_the_client_cuts_what_is_under_way() -> None:
    async def test() -> None:
        async with talking(sends(CHUNKED)) as (_, client):
            response = await client.post("/x", b"")
            reading = asyncio.create_task(response.read(100))
            await asyncio.sleep(0)
            await client.close()
            with pytest.raises(Cut):
                await reading
            with pytest.raises(Unreachable):
                await client.post("/x", b"")

    run(test())
