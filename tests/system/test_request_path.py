"""A request from the official client to the stored, graded completion."""

from __future__ import annotations

import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from demo.scenario import MODEL
from demo.tiny_reasoner.task import Problem, Split, held_out_problems
from experiments import wire
from experiments.models import Admission, Completion, Experiment, Exposure, Label, ShadowRun
from experiments.services.changes import announce_change
from experiments.services.looks import look
from experiments.services.shadow import queue_due
from experiments.statistics.snapshot import Snapshot
from tests.system.conftest import Installation, wait_for

CONSERVATIVE = {"name": "confidence", "parameters": {"threshold": 0.95, "patience": 2, "probe_every": 32}}


def problems(count: int) -> list[Problem]:
    return list(held_out_problems(count, seed=3, split=Split.TUNING))


def client(installation: Installation) -> openai.OpenAI:
    return openai.OpenAI(api_key=installation.token, base_url=f"{installation.url}/v1", max_retries=0)


def ask(api: openai.OpenAI, problem: Problem, **options: Any) -> Any:
    messages = [{"role": "user", "content": problem.prompt}]
    return api.chat.completions.create(model=MODEL, messages=messages, **options)


def stored(request_id: str) -> Completion:
    wait_for(lambda: Completion.objects.filter(pk=request_id).exists())
    return Completion.objects.get(pk=request_id)


def test_a_request_is_answered_stored_and_graded(installation: Installation) -> None:
    problem = problems(1)[0]
    with client(installation) as api:
        answer = ask(api, problem, metadata={"reference": problem.answer})
    message = answer.choices[0].message
    assert message.reasoning.startswith("draft\n")
    completion = stored(answer.id)
    assert completion.outcome == "answered"
    assert completion.text == message.content
    assert completion.thinking == message.reasoning
    assert completion.decoded_tokens == answer.usage.completion_tokens
    assert answer.usage.completion_tokens_details.reasoning_tokens == completion.thinking_tokens
    label = wait_for(lambda: Label.objects.filter(admission_id=answer.id).first())
    assert (label.source, label.grader, label.correct) == (
        "reference",
        "exact_match",
        message.content == problem.answer,
    )


def test_the_reference_never_reaches_the_engine(installation: Installation) -> None:
    problem = problems(1)[0]
    with installation.redis.monitor() as monitor, client(installation) as api:
        answer = ask(api, problem, metadata={"reference": "the-reference-answer"})
        installation.redis.echo("end")
        commands = []
        for command in monitor.listen():
            if command["command"].startswith("ECHO"):
                break
            commands.append(command["command"])
    holding = [command for command in commands if "the-reference-answer" in command]
    assert holding
    assert all(wire.LEDGER_STREAM in command for command in holding)
    assert answer.choices[0].message.content


def test_streaming_gives_the_same_text_as_not_streaming(installation: Installation) -> None:
    problem = problems(1)[0]
    with client(installation) as api:
        whole = ask(api, problem).choices[0].message
        chunks = list(ask(api, problem, stream=True, stream_options={"include_usage": True}))
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(getattr(delta, "reasoning", None) or "" for delta in deltas) == whole.reasoning
    assert "".join(delta.content or "" for delta in deltas) == whole.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage.completion_tokens == stored(chunks[-1].id).decoded_tokens
    assert len(deltas) > 10


def test_a_conversation_keeps_its_variant_and_is_exposed_once(installation: Installation) -> None:
    installation.start_experiment(CONSERVATIVE)
    problem = problems(1)[0]
    seen = []
    with client(installation) as api:
        for _ in range(3):
            raw = api.chat.completions.with_raw_response.create(
                model=MODEL,
                messages=[{"role": "user", "content": problem.prompt}],
                metadata={"conversation_id": "one"},
            )
            seen.append(raw.headers["x-curtail-variant"])
            stored(raw.parse().id)
    assert len(set(seen)) == 1
    assert Exposure.objects.count() == 1
    assert Admission.objects.exclude(unit_hash="").count() == 3
    assert not Admission.objects.filter(unit_hash__contains="one").exists()


def test_both_arms_run_and_a_look_counts_them(installation: Installation) -> None:
    experiment = installation.start_experiment(CONSERVATIVE)
    asked = problems(30)
    with client(installation) as api:
        answers = [
            ask(api, p, metadata={"conversation_id": f"c{n}", "reference": p.answer}) for n, p in enumerate(asked)
        ]
    wait_for(lambda: Label.objects.exclude(correct=None).count() == 30)
    arms = Counter(answer.curtail["variant"] for answer in answers)
    row = look(experiment.pk)
    assert row is not None
    snapshot = Snapshot.from_dict(row.data)
    assert {arm.key: arm.completions for arm in snapshot.arms} == arms
    assert {arm.key: arm.labelled_completions for arm in snapshot.arms} == arms
    for arm in snapshot.arms:
        rows = Completion.objects.filter(
            pk__in=Admission.objects.filter(variant__key=arm.key).values_list("pk", flat=True)
        )
        decoded = [completion.decoded_tokens for completion in rows]
        assert arm.decoded_tokens.value == pytest.approx(sum(decoded) / len(decoded))
    exits = {answer.curtail["exit"]["reason"] for answer in answers if answer.curtail["variant"] == "treatment"}
    assert "confident" in exits


def test_a_harmful_arm_is_reverted_by_a_look_and_its_traffic_moves_within_five_seconds(
    installation: Installation,
) -> None:
    """Eight thinking tokens are too few for this model: its answers are wrong."""
    budget = {"name": "token_budget", "parameters": {"max_thinking_tokens": 8}}
    experiment = installation.start_experiment(budget, tuning_units=500)
    asked = {f"c{n}": problem for n, problem in enumerate(problems(90))}

    def variant_of(conversation: str) -> str | None:
        problem = asked[conversation]
        metadata = {"conversation_id": conversation, "reference": problem.answer}
        with client(installation) as api:
            return str(ask(api, problem, metadata=metadata).curtail["variant"])

    with ThreadPoolExecutor(16) as pool:
        before = dict(zip(asked, pool.map(variant_of, asked), strict=True))
    wait_for(lambda: Label.objects.exclude(correct=None).count() == len(asked))
    row = look(experiment.pk)
    looked = time.monotonic()
    assert row is not None
    assert row.data["verdict"]["treatments"][0]["decision"] == "revert"
    treated = next(name for name, variant in before.items() if variant == "treatment")
    wait_for(lambda: variant_of(treated) != "treatment", seconds=5.0)
    assert time.monotonic() - looked < 5.0
    experiment.refresh_from_db()
    assert (experiment.state, experiment.conclusion) == ("stopped", "reverted")


def test_drawn_requests_get_shadow_runs_that_agree_with_what_the_other_arm_would_have_said(
    installation: Installation,
) -> None:
    experiment = installation.start_experiment(CONSERVATIVE)
    Experiment.objects.update(shadow_share=1.0)
    announce_change()
    wait_for(lambda: _shadow_share(installation) == 1.0)
    asked = problems(12)
    with client(installation) as api:
        for n, p in enumerate(asked):
            ask(api, p, metadata={"conversation_id": f"c{n}", "reference": p.answer})
    wait_for(lambda: Label.objects.exclude(correct=None).count() == len(asked))
    assert queue_due() == len(asked)
    wait_for(lambda: ShadowRun.objects.filter(state="answered").count() == len(asked))
    row = look(experiment.pk)
    assert row is not None
    pairs = row.data["details"][0]["pairs"]
    assert (pairs["pairs"], sum(pairs["table"].values())) == (len(asked), len(asked))
    # The policy is conservative: on these prompts both sides nearly always say the same.
    assert pairs["agreement"] >= 0.75
    continued = ShadowRun.objects.filter(kind="continue", exit_reason="end_of_thinking")
    assert all(run.forced_tokens > 0 for run in continued)


def _shadow_share(installation: Installation) -> float:
    (route,) = installation.gateway._routing.current.routes.values()
    return sum(experiment.shadow_share for experiment in route.experiments)


def test_a_request_without_its_unit_is_served_unexposed(installation: Installation) -> None:
    installation.start_experiment(CONSERVATIVE)
    with client(installation) as api:
        answer = ask(api, problems(1)[0])
    stored(answer.id)
    assert answer.curtail["variant"] is None
    assert Admission.objects.get().phase is None
    assert not Exposure.objects.exists()


def test_a_client_that_leaves_cancels_its_decoding(installation: Installation) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": problems(1)[0].prompt}], "stream": True}
    headers = {"authorization": f"Bearer {installation.token}"}
    url = f"{installation.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, headers=headers, timeout=30) as response:
        next(response.iter_lines())
    completion = wait_for(Completion.objects.first)
    assert completion.outcome == "cancelled"
    assert completion.decoded_tokens < 250


def test_nothing_is_left_in_redis_after_the_answers(installation: Installation) -> None:
    with client(installation) as api:
        answer = ask(api, problems(1)[0])
    stored(answer.id)
    stream = wire.request_stream(installation.checkpoint.pk)
    wait_for(lambda: installation.redis.xlen(wire.LEDGER_STREAM) == 0)
    assert installation.redis.xlen(stream) == 0
    assert installation.redis.xpending(stream, wire.REQUEST_GROUP)["pending"] == 0
    assert installation.gateway._replies.waiting == 0


@pytest.mark.parametrize(
    ("headers", "body", "status", "code"),
    [
        ({}, {}, 401, "invalid_api_key"),
        ({"authorization": "Bearer ck_wrong"}, {}, 401, "invalid_api_key"),
        (None, {"model": MODEL, "messages": []}, 400, "invalid_value"),
        (None, {"model": "other", "messages": [{"role": "user", "content": "x"}]}, 404, "model_not_found"),
        (
            None,
            {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "novelty": 1},
            400,
            "unsupported_parameter",
        ),
    ],
)
def test_a_refused_request_gets_openais_error_form_and_leaves_no_trace(
    installation: Installation, headers: dict[str, str] | None, body: dict[str, Any], status: int, code: str
) -> None:
    if headers is None:
        headers = {"authorization": f"Bearer {installation.token}"}
    answer = httpx.post(f"{installation.url}/v1/chat/completions", headers=headers, content=json.dumps(body))
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["code"] == code
    assert error["message"]
    assert installation.redis.xlen(wire.LEDGER_STREAM) == 0


def test_the_models_list_names_the_model_and_the_use_case(installation: Installation) -> None:
    with client(installation) as api:
        assert [model.id for model in api.models.list()] == [MODEL, "arithmetic"]


def test_a_stop_string_ends_the_answer_of_a_hosted_model(installation: Installation) -> None:
    problem = problems(1)[0]
    with client(installation) as api:
        whole = ask(api, problem).choices[0]
        stop = whole.message.content[-1]
        stopped = ask(api, problem, stop=stop)
        chunks = list(ask(api, problem, stop=stop, stream=True))
    expected = whole.message.content.partition(stop)[0]
    assert (stopped.choices[0].message.content, stopped.choices[0].finish_reason) == (expected, "stop")
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected
    assert stored(stopped.id).text == expected


def test_a_plain_completion_is_the_answer_of_a_chat(installation: Installation) -> None:
    problem = problems(1)[0]
    with client(installation) as api:
        chat = ask(api, problem)
        plain = api.completions.create(model=MODEL, prompt=problem.prompt)
    assert plain.choices[0].text == chat.choices[0].message.content
    assert plain.usage == chat.usage


def test_tools_are_refused_by_a_model_that_is_decoded_here(installation: Installation) -> None:
    with client(installation) as api, pytest.raises(openai.BadRequestError) as caught:
        ask(api, problems(1)[0], tools=[{"type": "function", "function": {"name": "add"}}])
    assert caught.value.param == "tools"
    assert not installation.redis.xlen(wire.LEDGER_STREAM)
    assert not Admission.objects.exists()
