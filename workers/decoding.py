"""One admitted request on an engine: its text while it is decoded, and how it ended, whoever serves it."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import orjson

from experiments import wire
from experiments.policies import Policy, policy_from_spec
from workers.engines.base import (
    Delta,
    DeltaKind,
    Engine,
    EngineError,
    FinishReason,
    GenerationRequest,
    GenerationResult,
    PassesOn,
    Sampling,
)

logger = logging.getLogger(__name__)
# A client knows its own messages.
_TOLD = tuple(field.name for field in dataclasses.fields(wire.CompletionRecord) if field.name != "messages")


@dataclasses.dataclass(frozen=True, slots=True)
class Ended:
    """How a request ended.

    Attributes:
        record: for the ledger.
        event: the last one for its client.
    """

    record: wire.CompletionRecord
    event: wire.ReplyEvent


async def decode(
    engine: Engine, request: wire.ServeRequest, on_text: Callable[[wire.ReplyEvent], None], deliveries: int = 1
) -> Ended:
    """Decode a request until it ends, at its deadline at the latest.

    Args:
        engine: a started engine.
        request: the request.
        on_text: takes the events with text, in order, if the request streams.
        deliveries: how often the request has been taken by an engine host.
    """
    waited = time.time() - request.admitted_at
    remaining = request.deadline_at - time.time()
    if remaining <= 0:
        return _timed_out(request, None, deliveries)
    late = False

    def end_at_deadline() -> None:
        nonlocal late
        late = True
        engine.cancel(request.id)

    timer = asyncio.get_running_loop().call_later(remaining, end_at_deadline)
    try:
        result = await _generate(engine, request, on_text)
    except EngineError as error:
        return failed(request, str(error), 400 if error.invalid_request else 500, error.code, deliveries=deliveries)
    except Exception as error:
        # Whatever it is, the client hears of it and the record says so.
        logger.exception("request %s failed", request.id)
        return failed(request, f"decoding failed: {type(error).__name__}", 500, deliveries=deliveries)
    finally:
        timer.cancel()
    record = _record(request, result, waited, deliveries)
    if result.finish_reason is not FinishReason.CANCELLED:
        body = {name: getattr(record, name) for name in _TOLD}
        if result.choices:
            body["choices"] = result.choices
        return Ended(record, wire.ReplyEvent(request.id, "finished", body))
    if late:
        return _timed_out(request, record, deliveries)
    cancelled = dataclasses.replace(record, outcome="cancelled")
    return Ended(cancelled, wire.ReplyEvent(request.id, "error", _error("cancelled", "cancelled", 499)))


def failed(
    request: wire.ServeRequest, message: str, status: int, code: str = "engine_error", *, deliveries: int = 1
) -> Ended:
    """The ending of a request that could not be answered.

    Args:
        request: the request.
        message: fit for the client.
        status: HTTP status.
        code: short, stable name.
        deliveries: see :func:`decode`.
    """
    now = time.time()
    record = wire.CompletionRecord(
        request.id,
        "error",
        now,
        # A message of an engine may quote the prompt.
        error=message if request.retention == wire.KEEP else code,
        messages=request.messages,
        latency_seconds=now - request.admitted_at,
        deliveries=deliveries,
        retention=request.retention,
    )
    return Ended(record, wire.ReplyEvent(request.id, "error", _error(message, code, status)))


@lru_cache(maxsize=1024)
def _policy(spec: bytes) -> Policy:
    """The policy of a JSON form: a frozen value, so the same for all requests that name it."""
    return policy_from_spec(orjson.loads(spec))


async def _generate(
    engine: Engine, request: wire.ServeRequest, on_text: Callable[[wire.ReplyEvent], None]
) -> GenerationResult:
    if request.passthrough is not None and not isinstance(engine, PassesOn):
        message = "the model's engine passes no requests on as they are"
        raise EngineError(message, code="unsupported", invalid_request=True)
    generation = GenerationRequest(
        id=request.id,
        messages=request.messages,
        policy=_policy(orjson.dumps(request.policy)),
        sampling=Sampling(request.temperature, request.top_p, request.seed, request.max_tokens),
        stream=request.stream,
        client_cap=request.client_cap,
        stop=tuple(request.stop),
        passthrough=request.passthrough,
        extra_sampling=request.extra_sampling,
    )
    async for event in engine.generate(generation):
        if isinstance(event, Delta):
            body = event.choices if event.kind is DeltaKind.CHOICES else event.text
            on_text(wire.ReplyEvent(request.id, event.kind.value, body))
        else:
            return event.result
    raise EngineError("the engine ended without a result")


def _timed_out(request: wire.ServeRequest, record: wire.CompletionRecord | None, deliveries: int) -> Ended:
    seconds = request.deadline_at - request.admitted_at
    message = f"no answer within {seconds:g} seconds"
    base = record or wire.CompletionRecord(
        request.id,
        "timeout",
        time.time(),
        messages=request.messages,
        deliveries=deliveries,
        retention=request.retention,
    )
    timed_out = dataclasses.replace(base, outcome="timeout", error=message)
    return Ended(timed_out, wire.ReplyEvent(request.id, "error", _error(message, "timeout", 504)))


def _error(message: str, code: str, status: int) -> dict[str, Any]:
    return {"message": message, "code": code, "status": status}


def _record(
    request: wire.ServeRequest, result: GenerationResult, waited: float, deliveries: int
) -> wire.CompletionRecord:
    """The record of a request that an engine has answered or was told to stop.

    Args:
        waited: seconds from admission until the engine was asked.
    """
    now = time.time()
    left = result.exit
    return wire.CompletionRecord(
        id=request.id,
        outcome="answered",
        completed_at=now,
        finish_reason=result.finish_reason.value,
        exit_reason=left.reason.value if left else "",
        exit_detail=left.detail[:200] if left else "",
        decision_step=left.decision_step if left else None,
        applied_step=result.applied_step,
        prompt_tokens=result.tokens.prompt,
        thinking_tokens=result.tokens.thinking,
        answer_tokens=result.tokens.answer,
        probe_tokens=result.tokens.probe,
        overrun_tokens=result.tokens.overrun,
        prefill_tokens=result.tokens.prefill,
        probes=result.probes,
        enforcement_failures=",".join(result.failures),
        estimated_counts=",".join(result.tokens.estimated),
        messages=request.messages,
        thinking=result.thinking,
        text=result.text,
        answer=result.answer,
        queue_seconds=waited + result.queued_seconds,
        latency_seconds=now - request.admitted_at,
        deliveries=deliveries,
        retention=request.retention,
    )
