"""What an operator reads of a real gateway: pages, metrics and log lines."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
from prometheus_client.parser import text_string_to_metric_families

from experiments import wire
from tests.system.conftest import Installation, wait_for
from tests.system.gateway_process import GatewayProcess, Start
from tests.system.gateway_process import start_gateway as start_gateway  # the fixture
from workers.serving import SILENT_AFTER_SECONDS


def metrics(gateway: GatewayProcess) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(httpx.get(f"{gateway.url}/metrics").text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def answered(gateway: GatewayProcess, **headers: str) -> httpx.Response:
    url = f"{gateway.url}/v1/chat/completions"
    with ThreadPoolExecutor(1) as clients:
        body = gateway.body(prompt="a secret prompt")
        asked = clients.submit(httpx.post, url, json=body, headers={**gateway.headers, **headers}, timeout=30)
        (request,) = gateway.taken()
        gateway.finish(request)
        return asked.result(15)


def test_the_metrics_count_requests_tokens_exits_and_refusals(start_gateway: Start) -> None:
    gateway = start_gateway()
    assert answered(gateway).status_code == 200
    httpx.post(f"{gateway.url}/v1/chat/completions", json=gateway.body())
    found = metrics(gateway)
    arm = {("use_case", "arithmetic"), ("variant", "")}

    def value(name: str, *labels: tuple[str, str]) -> float:
        return found[name, frozenset(labels)]

    assert value("curtail_requests_total", *arm, ("outcome", "answered"), ("status", "200")) == 1
    assert value("curtail_tokens_total", *arm, ("kind", "thinking")) == 5
    assert value("curtail_tokens_total", *arm, ("kind", "probe")) == 3
    exits = (("use_case", "arithmetic"), ("policy", "full"), ("reason", "end_of_thinking"))
    assert value("curtail_exits_total", *exits) == 1
    assert value("curtail_rejected_total", ("reason", "invalid_api_key")) == 1
    assert value("curtail_queue_seconds_sum", ("use_case", "arithmetic")) == 0.25
    assert value("curtail_request_seconds_count", ("use_case", "arithmetic"), ("stream", "false")) == 1
    assert value("curtail_open_requests") == 0
    assert value("curtail_routing_version") >= 0


def test_the_metrics_may_want_a_token(start_gateway: Start) -> None:
    gateway = start_gateway(CURTAIL_METRICS_TOKEN="open-sesame")
    assert httpx.get(f"{gateway.url}/metrics").status_code == 401
    allowed = httpx.get(f"{gateway.url}/metrics", headers={"authorization": "Bearer open-sesame"})
    assert allowed.status_code == 200


def test_each_request_has_one_line_without_prompt_answer_or_key(start_gateway: Start) -> None:
    gateway = start_gateway()
    response = answered(gateway, **{"x-request-id": "mine-1"})
    lines = wait_for(lambda: [line for line in gateway.log_lines() if line.get("event") == "request"])
    (line,) = lines
    assert (line["request_id"], line["client_request_id"]) == (response.headers["x-request-id"], "mine-1")
    assert (line["status"], line["outcome"], line["use_case"], line["exit"]) == (
        200,
        "answered",
        "arithmetic",
        "end_of_thinking",
    )
    assert line["seconds"] > 0
    text = gateway.child.log.read_text()
    assert "a secret prompt" not in text
    assert gateway.token not in text


def test_a_refused_request_has_a_line_with_the_id_that_its_client_got(start_gateway: Start) -> None:
    gateway = start_gateway()
    url = f"{gateway.url}/v1/chat/completions"
    refused = httpx.post(url, json={}, headers={"x-request-id": "no good\tid"})
    (line,) = wait_for(lambda: [line for line in gateway.log_lines() if line.get("event") == "request"])
    assert (line["request_id"], line["status"], line["error"]) == (
        refused.headers["x-request-id"],
        401,
        "invalid_api_key",
    )
    assert "client_request_id" not in line


def test_ready_follows_the_engine_host(start_gateway: Start) -> None:
    gateway = start_gateway()
    missing = httpx.get(f"{gateway.url}/readyz")
    assert missing.status_code == 503
    assert missing.json()["checks"]["engine_hosts"]["detail"] == f"no host for checkpoint {gateway.checkpoint_id}"
    gateway.host_is_up()
    answer = httpx.get(f"{gateway.url}/readyz").json()
    assert answer["status"] == "ready"
    assert answer["checks"]["postgresql"] == {"ok": True, "required": False, "detail": "answers"}


def test_a_gateway_is_not_ready_while_redis_is_silent_and_recovers(start_gateway: Start) -> None:
    gateway = start_gateway()
    gateway.host_is_up()
    gateway.redis.execute_command("CLIENT", "PAUSE", 7000)
    checks = wait_for(lambda: (answer := httpx.get(f"{gateway.url}/readyz")).status_code == 503 and answer.json())
    assert not checks["checks"]["redis"]["ok"]
    assert httpx.get(f"{gateway.url}/healthz").status_code == 200
    wait_for(lambda: httpx.get(f"{gateway.url}/readyz").status_code == 200)


def test_health_is_only_asked_for(start_gateway: Start) -> None:
    gateway = start_gateway()
    assert httpx.post(f"{gateway.url}/healthz").status_code == 405


def test_an_engine_host_says_that_it_serves(installation: Installation) -> None:
    key = wire.host_key(installation.checkpoint.pk)
    wait_for(lambda: installation.redis.exists(key))
    assert 0 < installation.redis.ttl(key) <= SILENT_AFTER_SECONDS
