"""Bounds of a gateway over real connections: what is refused leaves nothing behind."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
import orjson

from experiments import wire
from experiments.models import UseCase
from experiments.services.changes import announce_change
from tests.system.conftest import wait_for
from tests.system.gateway_process import GatewayProcess, Start
from tests.system.gateway_process import start_gateway as start_gateway  # the fixture


def raw(gateway: GatewayProcess, content_length: int, sent: bytes) -> bytes:
    """What a client reads that declares a body and sends only this much of it."""
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.token}\r\n"
        f"Content-Length: {content_length}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=15) as connection:
        connection.sendall(head.encode() + sent)
        received = b""
        while part := connection.recv(65_536):  # until the gateway closes the connection
            received += part
    return received


def test_beyond_the_queues_bound_clients_are_sent_away_without_a_record(start_gateway: Start) -> None:
    gateway = start_gateway(CURTAIL_MAX_QUEUE="2")
    with ThreadPoolExecutor(2) as clients:
        first = [clients.submit(gateway.ask) for _ in range(2)]
        waiting = gateway.taken(2)
        recorded = gateway.redis.xlen(wire.LEDGER_STREAM)
        refused = gateway.ask()
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "queue_full"
        assert int(refused.headers["retry-after"]) >= 1
        assert gateway.redis.xlen(wire.LEDGER_STREAM) == recorded
        assert gateway.redis.xlen(wire.request_stream(gateway.checkpoint_id)) == 2
        for request in waiting:
            gateway.finish(request)
        assert [answer.result(15).status_code for answer in first] == [200, 200]


def test_one_gateway_sees_the_queue_that_another_has_filled(start_gateway: Start) -> None:
    full, other = start_gateway(CURTAIL_MAX_QUEUE="1"), start_gateway(CURTAIL_MAX_QUEUE="1")
    with ThreadPoolExecutor(1) as clients:
        first = clients.submit(full.ask)
        (request,) = full.taken()
        depth = f'curtail_queue_depth{{checkpoint="{other.checkpoint_id}"}} 1.0'
        wait_for(lambda: depth in httpx.get(f"{other.url}/metrics").text)
        assert other.ask().status_code == 429
        full.finish(request)
        assert first.result(15).status_code == 200


def test_a_body_declared_too_large_is_refused_before_it_is_sent(start_gateway: Start) -> None:
    gateway = start_gateway(CURTAIL_MAX_BODY_BYTES="2048")
    answer = raw(gateway, 4096, b"")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"request_too_large" in answer


def test_a_client_that_stalls_in_its_body_is_cut(start_gateway: Start) -> None:
    gateway = start_gateway(CURTAIL_BODY_TIMEOUT_SECONDS="1")
    answer = raw(gateway, 100, b'{"model":')
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"request_timeout" in answer


def test_a_long_prompt_is_refused(start_gateway: Start) -> None:
    gateway = start_gateway(CURTAIL_MAX_PROMPT_CHARACTERS="10")
    refused = gateway.ask(prompt="x" * 11)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")


def test_a_key_has_a_bound_of_its_own(start_gateway: Start) -> None:
    gateway = start_gateway(CURTAIL_MAX_CONCURRENCY_PER_KEY="1")
    with ThreadPoolExecutor(1) as clients:
        first = clients.submit(gateway.ask)
        (request,) = gateway.taken()
        refused = gateway.ask()
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "concurrency_limit_exceeded")
        gateway.finish(request)
        assert first.result(15).status_code == 200


def test_a_request_past_its_deadline_is_cancelled_where_it_is_decoded(
    registered: UseCase, start_gateway: Start
) -> None:
    registered.deadline_seconds = 1.0
    registered.save()
    announce_change()
    gateway = start_gateway()
    with gateway.redis.pubsub() as channel:
        channel.subscribe(wire.CANCEL_CHANNEL)
        refused = gateway.ask()
        cancelled = wait_for(lambda: channel.get_message(ignore_subscribe_messages=True, timeout=0.1))
    assert (refused.status_code, refused.json()["error"]["code"]) == (504, "timeout")
    assert cancelled["data"].decode() == refused.headers["x-request-id"]


def test_a_client_that_does_not_read_its_answer_is_let_go(registered: UseCase, start_gateway: Start) -> None:
    registered.deadline_seconds = 1.0
    registered.save()
    announce_change()
    gateway = start_gateway(CURTAIL_BODY_TIMEOUT_SECONDS="1")
    body = orjson.dumps(gateway.body(stream=True))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.token}\r\n"
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=15) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        (request,) = gateway.taken()
        # More than all buffers on the way hold, so that the gateway has to wait for its client.
        for _ in range(20):
            gateway.reply(request, "thinking", "x" * 1_000_000)
        gateway.finish(request)
        wait_for(lambda: "curtail_open_requests 1.0" in httpx.get(f"{gateway.url}/metrics").text)
        wait_for(lambda: "curtail_open_requests 0.0" in httpx.get(f"{gateway.url}/metrics").text)
        assert 'outcome="cancelled",status="200"' in httpx.get(f"{gateway.url}/metrics").text
