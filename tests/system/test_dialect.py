"""What an operator chooses where OpenAI's protocol leaves a choice, in a real gateway's environment."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from experiments import wire
from tests.system.gateway_process import ROOT, GatewayProcess, Start
from tests.system.gateway_process import start_gateway as start_gateway  # the fixture


def answered(gateway: GatewayProcess, **fields: Any) -> tuple[wire.ServeRequest, dict[str, Any]]:
    """What an engine host was asked for, and the choice that its client got."""
    url, body = f"{gateway.url}/v1/chat/completions", gateway.body() | fields
    with ThreadPoolExecutor(1) as clients:
        asked = clients.submit(httpx.post, url, json=body, headers=gateway.headers, timeout=30)
        (request,) = gateway.taken()
        gateway.finish(request)
        return request, dict(asked.result(15).raise_for_status().json()["choices"][0])


def test_thinking_comes_under_both_names_where_they_are_wanted(start_gateway: Start) -> None:
    _, choice = answered(start_gateway(CURTAIL_REASONING_FIELD="both"))
    assert (choice["message"]["reasoning"], choice["message"]["reasoning_content"]) == ("hm", "hm")


def test_unknown_parameters_are_ignored_and_efforts_capped_as_configured(start_gateway: Start) -> None:
    gateway = start_gateway(CURTAIL_UNKNOWN_PARAMETERS="ignore", CURTAIL_EFFORT_CAPS="low=77")
    request, choice = answered(gateway, novelty=1, reasoning_effort="low", stop="END")
    assert (request.client_cap, request.stop) == (77, ["END"])
    assert (request.passthrough, request.extra_sampling) == (None, {})
    assert set(choice["message"]) == {"role", "content", "reasoning"}


def test_a_local_engine_refuses_what_it_cannot_serve_and_admits_nothing(start_gateway: Start) -> None:
    gateway = start_gateway(CURTAIL_UNKNOWN_PARAMETERS="forward")
    url = f"{gateway.url}/v1/chat/completions"
    for name, value in (("n", 2), ("logprobs", True), ("top_k", 3), ("novelty", 1)):
        refused = httpx.post(url, json=gateway.body() | {name: value}, headers=gateway.headers)
        error = refused.json()["error"]
        assert (refused.status_code, error["param"], error["code"]) == (400, name, "unsupported_parameter")
        assert "it runs on transformers, which decodes plain text" in error["message"]
    assert gateway.redis.xlen(wire.request_stream(gateway.checkpoint_id)) == 0
    assert gateway.redis.xlen(wire.LEDGER_STREAM) == 0


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("CURTAIL_REASONING_FIELD", "thoughts", "must be one of reasoning, reasoning_content, both, got 'thoughts'"),
        ("CURTAIL_UNKNOWN_PARAMETERS", "drop", "must be one of refuse, ignore, forward, got 'drop'"),
        ("CURTAIL_EFFORT_CAPS", "low=0", "low must be unlimited or from 1 to 1000000000 tokens, got '0'"),
    ],
)
def test_a_wrong_choice_ends_the_start_with_its_name(name: str, value: str, message: str) -> None:
    env = {**os.environ, name: value, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "platform")))}
    argv = [sys.executable, "-c", "import curtail.settings"]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert name in last
    assert message in last
