"""SIGTERM: what is in flight ends, what comes is sent elsewhere, the process ends well."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx

from experiments import wire
from tests.system.conftest import wait_for
from tests.system.gateway_process import GatewayProcess, Start
from tests.system.gateway_process import start_gateway as start_gateway  # the fixture


def data_lines(response: httpx.Response) -> Iterator[str]:
    return (line.removeprefix("data: ") for line in response.iter_lines() if line)


def start_to_answer(gateway: GatewayProcess) -> wire.ServeRequest:
    (request,) = gateway.taken()
    gateway.reply(request, "thinking", "hm")
    return request


def readiness(gateway: GatewayProcess) -> tuple[int, str]:
    answer = httpx.get(f"{gateway.url}/readyz")
    return answer.status_code, answer.json()["status"]


def test_a_stream_in_flight_ends_well_and_new_requests_are_sent_elsewhere(start_gateway: Start) -> None:
    gateway = start_gateway()
    gateway.host_is_up()
    url = f"{gateway.url}/v1/chat/completions"
    body = gateway.body(stream=True)
    with ThreadPoolExecutor(1) as engine, httpx.Client(timeout=30) as client:
        # The response's head comes with the first text.
        serving = engine.submit(start_to_answer, gateway)
        response = client.send(client.build_request("POST", url, json=body, headers=gateway.headers), stream=True)
        request, lines = serving.result(), data_lines(response)
        gateway.terminate()
        wait_for(lambda: readiness(gateway) == (503, "unavailable"))
        refused = gateway.ask()
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert refused.headers["connection"] == "close"
        assert int(refused.headers["retry-after"]) >= 1
        assert httpx.get(f"{gateway.url}/healthz").status_code == 200
        gateway.reply(request, "answer", "2")
        gateway.finish(request)
        rest = list(lines)
    assert rest[-1] == "[DONE]"
    assert json.loads(rest[-2])["choices"][0]["finish_reason"] == "stop"
    assert gateway.child.process.wait(15) == 0
    assert "Traceback" not in gateway.child.log.read_text()


def test_an_idle_gateway_ends_at_once(start_gateway: Start) -> None:
    gateway = start_gateway()
    began = time.monotonic()
    gateway.terminate()
    assert gateway.child.process.wait(15) == 0
    assert time.monotonic() - began < 5


def test_what_can_not_be_waited_for_ends_with_an_error_and_its_decoding_is_cancelled(start_gateway: Start) -> None:
    gateway = start_gateway(CURTAIL_DRAIN_SECONDS="1")
    with gateway.redis.pubsub() as channel, ThreadPoolExecutor(1) as clients:
        channel.subscribe(wire.CANCEL_CHANNEL)
        answer = clients.submit(gateway.ask)
        (request,) = gateway.taken()
        gateway.terminate()
        response = answer.result(20)
        cancelled = wait_for(lambda: channel.get_message(ignore_subscribe_messages=True, timeout=0.1))
    assert (response.status_code, response.json()["error"]["code"]) == (503, "draining")
    assert cancelled["data"].decode() == request.id
    assert gateway.child.process.wait(15) == 0
