"""The plugin's wheel in a stock vLLM server, which cannot import this repository: exits as asked, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.plugin_wheel import build, install
from tests.tiny_reasoner import PROMPTS, WRAP_UP
from tests.vllm.stock_server import Reply, StockServer, serving

CLOSE = "</think>"
PROMPT = PROMPTS[0]


@pytest.fixture(scope="module")
def server(checkpoint_path: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StockServer]:
    folder = tmp_path_factory.mktemp("stock")
    target = install(build(folder / "wheel"), folder / "plugin")
    with serving(checkpoint_path, target, folder, "--logits-processors", "curtail_vllm.v1:InPlaceExits") as server:
        yield server


@pytest.fixture(scope="module")
def plain(server: StockServer) -> str:
    """What the model writes without a plan, its special tokens included."""
    return text(ask(server))


def plan(name: str, **parameters: Any) -> dict[str, Any]:
    return {"policy": {"name": name, "parameters": parameters}}


def ask(server: StockServer, plan: Any = None, prompt: str = PROMPT, **options: Any) -> Reply:
    """A greedy chat completion, with a plan as a fleet's client sends it."""
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "skip_special_tokens": False,
        "return_token_ids": True,
        **options,
    }
    if plan is not None:
        body["vllm_xargs"] = {"curtail": plan if isinstance(plan, str) else json.dumps(plan)}
    return server.post("/v1/chat/completions", body)


def text(reply: Reply) -> str:
    assert reply.status == 200, reply.body
    return str(reply.body["choices"][0]["message"]["content"])


def tokens(reply: Reply) -> list[int]:
    assert reply.status == 200, reply.body
    return list(reply.body["choices"][0]["token_ids"])


def thinking(server: StockServer, reply: Reply) -> list[int]:
    """The thinking's tokens, end tag left out."""
    own = tokens(reply)
    (close,) = server.post("/tokenize", {"model": "m", "prompt": CLOSE, "add_special_tokens": False}).body["tokens"]
    assert own.count(close) == 1
    return own[: own.index(close)]


def test_a_request_without_a_plan_is_untouched(server: StockServer, plain: str) -> None:
    assert text(ask(server, {})) == plain
    assert plain.count(CLOSE) == 1


@pytest.mark.parametrize("budget", [1, 7, 20])
def test_a_budget_ends_thinking_exactly_there(server: StockServer, budget: int) -> None:
    full = thinking(server, ask(server))
    assert thinking(server, ask(server, plan("token_budget", max_thinking_tokens=budget))) == full[:budget]


def test_a_budget_beyond_the_natural_end_changes_nothing(server: StockServer, plain: str) -> None:
    assert text(ask(server, plan("token_budget", max_thinking_tokens=900))) == plain


def test_a_client_cap_alone_ends_thinking(server: StockServer) -> None:
    assert len(thinking(server, ask(server, {"client_cap": 9}))) == 9


def test_a_wrap_up_phrase_stands_before_the_end_of_thinking(server: StockServer, plain: str) -> None:
    wrapped = text(ask(server, plan("token_budget", max_thinking_tokens=10, wrap_up=WRAP_UP)))
    before, _, answer = wrapped.partition(CLOSE)
    assert before.endswith(WRAP_UP)
    assert plain.startswith(before.removesuffix(WRAP_UP))
    assert answer


def test_end_margin_ends_thinking_early_on_the_same_thought(server: StockServer) -> None:
    full = thinking(server, ask(server))
    early = thinking(server, ask(server, plan("end_margin", threshold=20.0, min_thinking_tokens=5)))
    assert 5 <= len(early) < len(full)
    assert early == full[: len(early)]


def test_end_margin_looks_at_step_boundaries_only(server: StockServer) -> None:
    asked = plan("end_margin", threshold=100.0, min_thinking_tokens=3) | {"step_boundary": "\n"}
    thought, _, _ = text(ask(server, asked)).partition(CLOSE)
    assert thought.endswith("\n")
    assert thought.strip()


def test_the_answer_follows_an_early_exit(server: StockServer) -> None:
    reply = ask(server, plan("token_budget", max_thinking_tokens=12))
    _, _, answer = text(reply).partition(CLOSE)
    assert answer.strip()
    assert reply.body["choices"][0]["finish_reason"] == "stop"


def test_each_of_many_concurrent_requests_gets_its_own_budget(server: StockServer) -> None:
    budgets = [1 + n % 16 for n in range(32)]

    def one(place: int) -> int:
        asked = plan("token_budget", max_thinking_tokens=budgets[place])
        return len(thinking(server, ask(server, asked, PROMPTS[place % len(PROMPTS)], temperature=0.7, seed=place)))

    with ThreadPoolExecutor(len(budgets)) as pool:
        assert list(pool.map(one, range(len(budgets)))) == budgets


def test_each_of_several_choices_ends_at_the_budget(server: StockServer) -> None:
    reply = ask(server, plan("token_budget", max_thinking_tokens=8), n=3, temperature=1.0, seed=5)
    (close,) = server.post("/tokenize", {"model": "m", "prompt": CLOSE, "add_special_tokens": False}).body["tokens"]
    assert [choice["token_ids"].index(close) for choice in reply.body["choices"]] == [8, 8, 8]


@pytest.mark.parametrize(
    ("refused", "reason"),
    [
        (plan("answer_convergence"), "policy answer_convergence reads trial_answer"),
        (plan("token_budget", max_thinking_tokens=0), "max_thinking_tokens must be at least 1, got 0"),
        ({"budget": 5}, "curtail has unknown fields: budget"),
        ({"key": "r"}, "curtail.key is for Curtail's own engine"),
        ({"entropy": True}, "curtail.entropy is for Curtail's own engine"),
        ({"think_close": "\ud800"}, "think_close must be valid Unicode"),
        ("{", "curtail must be a JSON object"),
    ],
)
def test_a_refused_plan_is_a_400_that_names_the_reason(server: StockServer, refused: Any, reason: str) -> None:
    reply = ask(server, refused)
    assert reply.status == 400
    assert reason in reply.body["error"]["message"]


def test_a_tag_without_a_token_leaves_the_server_alive(server: StockServer, plain: str) -> None:
    asked = plan("token_budget", max_thinking_tokens=3) | {"think_close": "\N{SNOWMAN}"}
    assert text(ask(server, asked)) == plain
    assert text(ask(server)) == plain
