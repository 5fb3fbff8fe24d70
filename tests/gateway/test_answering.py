"""A stream of events becomes a stream of chunks: opened once, ended once, and what Curtail did with the last choice."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson

from experiments import wire
from experiments.gateway.admission import Admitted, decide
from experiments.gateway.answering import Events, send_stream, send_whole
from experiments.gateway.chat_request import ChatRequest, parse_chat_request
from experiments.gateway.dialect import ReasoningField
from experiments.gateway.responses import ChatShape
from experiments.routing import Arm, Route

ROUTE = Route(1, "s", "m", 0.0, 60.0, Arm(1, {"name": "full", "parameters": {}}, "v1"), engine="openai")
RECORD = {
    "text": "a",
    "thinking": "hm",
    "finish_reason": "stop",
    "exit_reason": "end_of_thinking",
    "exit_detail": "",
    "decision_step": 1,
    "applied_step": 1,
    "prompt_tokens": 1,
    "thinking_tokens": 1,
    "overrun_tokens": 0,
    "answer_tokens": 2,
    "probe_tokens": 0,
}
ERROR = {"status": 500, "code": "engine_error", "message": "broken"}


def asked(**fields: Any) -> tuple[Admitted, ChatRequest]:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True, **fields}
    request = parse_chat_request(orjson.dumps(body))
    return decide(ROUTE, request), request


async def sent(*events: tuple[str, Any], whole: bool = False, **fields: Any) -> list[Any]:
    """The bodies of all chunks, or of the one response; the status before it where it is none of a stream."""
    admitted, request = asked(**fields)
    waiting: Events = asyncio.Queue()
    for kind, body in events:
        waiting.put_nowait(wire.ReplyEvent(admitted.id, kind, body))
    found: list[Any] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            found.extend([message["status"]] if message["status"] != 200 else [])
            return
        for line in message["body"].split(b"\n\n"):
            data = line.removeprefix(b"data: ")
            if data and data != b"[DONE]":
                found.append(orjson.loads(data))

    shape = ChatShape(admitted, request, ReasoningField.REASONING)
    if whole:
        await send_whole(admitted, shape, waiting, send)
    else:
        await send_stream(admitted, shape, waiting, send, include_usage=request.include_usage)
    return found


def choice(at: int, text: str = "", finish: str | None = None) -> list[dict[str, Any]]:
    return [{"index": at, "delta": {"content": text}, "finish_reason": finish}]


async def test_text_is_opened_once_and_ended_once() -> None:
    chunks = await sent(("thinking", "hm"), ("answer", "a"), ("finished", RECORD))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas == [{"role": "assistant", "content": ""}, {"reasoning": "hm"}, {"content": "a"}, {}]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]
    assert ["curtail" in chunk for chunk in chunks] == [False, False, False, True]


async def test_a_servers_choices_come_unchanged_and_the_last_one_tells_what_curtail_did() -> None:
    said = [choice(0, "a"), choice(1, "b"), choice(0, finish="stop"), choice(1, finish="length")]
    chunks = await sent(*(("choices", one) for one in said), ("finished", RECORD), n=2)
    assert [chunk["choices"] for chunk in chunks] == said
    assert ["curtail" in chunk for chunk in chunks] == [False, False, False, True]


async def test_text_after_a_choice_has_ended_keeps_its_order() -> None:
    said = [choice(0, finish="stop"), choice(1, "late"), choice(1, finish="stop")]
    chunks = await sent(
        *(("choices", one) for one in said), ("finished", RECORD), n=2, stream_options={"include_usage": True}
    )
    assert [chunk["choices"] for chunk in chunks] == [*said, []]
    assert chunks[-1]["usage"]["completion_tokens"] == 3


async def test_an_error_before_anything_was_sent_has_its_status() -> None:
    for whole in (False, True):
        status, body = await sent(("error", ERROR), whole=whole)
        assert (status, body["error"]["code"]) == (500, "engine_error")


async def test_an_error_within_a_stream_is_its_last_event() -> None:
    chunks = await sent(("choices", choice(0, "a")), ("error", ERROR), n=2)
    assert [next(iter(chunk)) for chunk in chunks[1:]] == ["error"]
