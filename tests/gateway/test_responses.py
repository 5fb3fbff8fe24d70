"""OpenAI's response shapes."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from experiments.gateway import responses
from experiments.routing import Arm, Assignment, RunningExperiment

ARM = Arm(1, {"name": "confidence", "parameters": {}}, "v1", 11, "short")
EXPERIMENT = RunningExperiment(7, 8, "salt", "user", ((0, 1),), (ARM,))
RECORD: dict[str, Any] = {
    "text": "4",
    "thinking": "2+2",
    "finish_reason": "stop",
    "exit_reason": "confident",
    "exit_detail": "sure",
    "decision_step": 30,
    "applied_step": 30,
    "prompt_tokens": 5,
    "thinking_tokens": 30,
    "overrun_tokens": 1,
    "answer_tokens": 4,
    "probe_tokens": 6,
}


def test_usage_counts_as_openai_does_and_shows_probes_apart() -> None:
    assert responses.usage(RECORD) == {
        "prompt_tokens": 5,
        "completion_tokens": 35,
        "total_tokens": 40,
        "completion_tokens_details": {"reasoning_tokens": 31},
        "curtail": {"probe_tokens": 6, "decoded_tokens": 41},
    }


def test_a_completion_fits_the_official_client() -> None:
    body = responses.completion_body("id-1", 99, "tiny", RECORD, Assignment(ARM, EXPERIMENT, "u"))
    parsed = ChatCompletion.model_validate(body)
    assert (parsed.id, parsed.created, parsed.model) == ("id-1", 99, "tiny")
    assert parsed.choices[0].message.content == "4"
    assert parsed.choices[0].finish_reason == "stop"
    assert parsed.usage is not None
    assert parsed.usage.total_tokens == 40
    assert body["choices"][0]["message"]["reasoning"] == "2+2"


def test_the_extension_tells_arm_and_applied_exit() -> None:
    assert responses.curtail_extension(RECORD, Assignment(ARM, EXPERIMENT, "u")) == {
        "experiment": 7,
        "variant": "short",
        "policy": {"name": "confidence", "parameters": {}},
        "exit": {"reason": "confident", "decision_step": 30, "applied_step": 30, "detail": "sure"},
    }


def test_outside_experiments_the_extension_names_none() -> None:
    found = responses.curtail_extension(RECORD, Assignment(Arm(1, {"name": "full"}, "v0"), None, ""))
    assert (found["experiment"], found["variant"]) == (None, None)


@pytest.mark.parametrize(
    ("delta", "finish_reason"), [({"role": "assistant", "content": ""}, None), ({"content": "4"}, None), ({}, "length")]
)
def test_a_chunk_fits_the_official_client(delta: dict[str, Any], finish_reason: str | None) -> None:
    body = responses.chunk_body("id-1", 99, "tiny", delta, finish_reason)
    choice = ChatCompletionChunk.model_validate(body).choices[0]
    assert choice.delta.model_dump(exclude_unset=True) == delta
    assert choice.finish_reason == finish_reason


def test_the_usage_chunk_has_no_choices() -> None:
    parsed = ChatCompletionChunk.model_validate(responses.usage_chunk("id-1", 99, "tiny", RECORD))
    assert parsed.choices == []
    assert parsed.usage is not None
    assert parsed.usage.completion_tokens == 35


def test_the_clients_cap_is_shown_where_it_sent_one() -> None:
    assert responses.curtail_extension(RECORD, Assignment(ARM, EXPERIMENT, "u"), 7)["client_cap"] == 7
