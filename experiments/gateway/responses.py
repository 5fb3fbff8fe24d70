"""OpenAI's response shapes, from a completion record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.routing import Assignment

Record = Mapping[str, Any]


def usage(record: Record) -> dict[str, Any]:
    """Tokens as OpenAI counts them: completion = thinking + overrun + answer; probes are an extension."""
    reasoning = record["thinking_tokens"] + record["overrun_tokens"]
    completion = reasoning + record["answer_tokens"]
    return {
        "prompt_tokens": record["prompt_tokens"],
        "completion_tokens": completion,
        "total_tokens": record["prompt_tokens"] + completion,
        "completion_tokens_details": {"reasoning_tokens": reasoning},
        "curtail": {
            "probe_tokens": record["probe_tokens"],
            "decoded_tokens": completion + record["probe_tokens"],
        },
    }


def curtail_extension(record: Record, assignment: Assignment, client_cap: int | None = None) -> dict[str, Any]:
    """What Curtail did: the assigned arm, the client's cap where it sent one, and the applied exit."""
    experiment = assignment.experiment
    return {
        "experiment": experiment.id if experiment else None,
        "variant": assignment.arm.variant_key,
        "policy": assignment.arm.policy,
        **({} if client_cap is None else {"client_cap": client_cap}),
        "exit": {
            "reason": record["exit_reason"],
            "decision_step": record["decision_step"],
            "applied_step": record["applied_step"],
            "detail": record["exit_detail"],
        },
    }


def completion_body(
    request_id: str, created: int, model: str, record: Record, assignment: Assignment, client_cap: int | None = None
) -> dict[str, Any]:
    """A whole ``chat.completion``."""
    message = {"role": "assistant", "content": record["text"], "reasoning": record["thinking"]}
    return {
        "id": request_id,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": record["finish_reason"], "logprobs": None}],
        "usage": usage(record),
        "curtail": curtail_extension(record, assignment, client_cap),
    }


def chunk_body(
    request_id: str, created: int, model: str, delta: Mapping[str, Any], finish_reason: str | None = None
) -> dict[str, Any]:
    """One ``chat.completion.chunk``."""
    return {
        "id": request_id,
        "object": "chat.completion.chunk",
        "created": created,
        "model": model,
        "choices": [{"index": 0, "delta": dict(delta), "finish_reason": finish_reason, "logprobs": None}],
    }


def usage_chunk(request_id: str, created: int, model: str, record: Record) -> dict[str, Any]:
    """The last chunk, asked for by ``stream_options.include_usage``."""
    return {**chunk_body(request_id, created, model, {}), "choices": [], "usage": usage(record)}
