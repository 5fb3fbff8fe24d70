"""A gateway that fails says so in OpenAI's form, once."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from experiments.gateway.app import Gateway
from experiments.gateway.http import send_json
from experiments.routing import Routing


async def receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"{}", "more_body": False}


def no_engine(checkpoint: Any) -> Any:
    raise AssertionError("no checkpoint is listed")


def failing(monkeypatch: pytest.MonkeyPatch, *, after_the_head: bool) -> Gateway:
    gateway = Gateway(lambda: None, lambda version: Routing(version), list, no_engine)

    async def fails(scope: Any, receive: Any, send: Any) -> None:
        if after_the_head:
            await send_json(send, 200, {})
        raise KeyError("a detail that is nobody's business")

    monkeypatch.setattr(gateway, "_handler", lambda scope: fails)
    return gateway


SCOPE = {"method": "POST", "path": "/v1/chat/completions", "headers": []}


async def test_an_unexpected_failure_is_a_500_without_details(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await failing(monkeypatch, after_the_head=False)(SCOPE, receive, send)
    assert sent[0]["status"] == 500
    error = orjson.loads(sent[1]["body"])["error"]
    assert (error["code"], error["type"]) == ("internal_error", "server_error")
    assert "detail" not in error["message"]


async def test_a_response_that_has_begun_is_cut_instead_of_answered_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    with pytest.raises(KeyError):
        await failing(monkeypatch, after_the_head=True)(SCOPE, receive, send)
    assert [message["type"] for message in sent].count("http.response.start") == 1
