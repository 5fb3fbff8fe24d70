"""One completion that was served elsewhere, as it is posted: its form and its bounds."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from experiments.grading import extract_answer
from experiments.services.assigned_ids import AssignedId
from experiments.services.errors import InvalidInput, invalid_value
from experiments.services.labels import NewLabel
from experiments.services.text import Text
from experiments.wire import CompletionRecord

# Their sum, decoded_tokens, must fit a column of 32 bits too.
MAX_TOKENS = 100_000_000
MAX_STEP = 2**31 - 1
MAX_SECONDS = 10_000_000.0
# How far the clock of whoever serves may be off.
CLOCK_SKEW_SECONDS = 60.0


Tokens = Annotated[int, Field(ge=0, le=MAX_TOKENS)]
Step = Annotated[int, Field(ge=0, le=MAX_STEP)]


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class PostedLabel(_Line):
    """Evidence on the completion's correctness, as POST /api/v1/labels takes it."""

    source: Literal["reference", "audit", "judge", "feedback"] = "reference"
    reference: Text | None = None
    correct: bool | None = None
    score: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)


class PostedCompletion(_Line):
    """How an assigned request ended. Tokens by kind; ``answer`` is extracted from ``text`` where it is left out."""

    id: str
    outcome: Literal["answered", "error", "timeout", "cancelled"]
    finish_reason: Literal["stop", "length"] | None = None
    exit_reason: Text = Field(default="", max_length=32)
    decision_step: Step | None = None
    applied_step: Step | None = None
    prompt_tokens: Tokens = 0
    thinking_tokens: Tokens = 0
    answer_tokens: Tokens = 0
    probe_tokens: Tokens = 0
    overrun_tokens: Tokens = 0
    thinking: Text = ""
    text: Text | None = None
    answer: Text | None = None
    error: Text = Field(default="", max_length=2_000)
    latency_seconds: float | None = Field(default=None, ge=0, le=MAX_SECONDS, allow_inf_nan=False)
    completed_at: AwareDatetime | None = None
    label: PostedLabel | None = None


def parse(line: bytes) -> PostedCompletion:
    """The completion of a line.

    Raises:
        InvalidInput: naming the field, the value and the bound.
    """
    try:
        posted = PostedCompletion.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise invalid_value(first["loc"], first["msg"], first["input"]) from error
    if posted.outcome == "answered" and posted.text is None and posted.answer is None:
        raise InvalidInput("answer or text must be there when outcome is 'answered', got neither", "answer")
    return posted


def record_of(posted: PostedCompletion, assigned: AssignedId, answer_pattern: str, retention: str) -> CompletionRecord:
    """The ledger's record of a completion.

    Args:
        posted: the completion.
        assigned: what its id says.
        answer_pattern: of the assigned checkpoint's model.
        retention: of the use case; the assignment, which has it too, may still be on its way.

    Raises:
        InvalidInput: ``completed_at`` is before the assignment or in the future.
    """
    completed_at = _completed_at(posted.completed_at, assigned.admitted_at)
    latency = posted.latency_seconds
    if latency is None and posted.completed_at is not None:
        latency = completed_at - assigned.admitted_at
    text = posted.text or ""
    answered = posted.outcome == "answered"
    return CompletionRecord(
        id=posted.id,
        outcome=posted.outcome,
        completed_at=completed_at,
        finish_reason=posted.finish_reason or ("stop" if answered else ""),
        exit_reason=posted.exit_reason,
        decision_step=posted.decision_step,
        applied_step=posted.applied_step,
        prompt_tokens=posted.prompt_tokens,
        thinking_tokens=posted.thinking_tokens,
        answer_tokens=posted.answer_tokens,
        probe_tokens=posted.probe_tokens,
        overrun_tokens=posted.overrun_tokens,
        thinking=posted.thinking,
        text=text,
        answer=extract_answer(text, answer_pattern) if posted.answer is None else posted.answer,
        error=posted.error,
        latency_seconds=latency,
        retention=retention,
    )


def label_of(posted: PostedCompletion) -> NewLabel | None:
    """The label that came with a completion."""
    if posted.label is None:
        return None
    return NewLabel(completion_id=posted.id, **posted.label.model_dump())


def _completed_at(given: datetime | None, admitted_at: float) -> float:
    """Seconds since the epoch: what was given, within the clocks' tolerance, or now."""
    now = time.time()
    if given is None:
        return now
    seconds = given.timestamp()
    if not admitted_at - CLOCK_SKEW_SECONDS <= seconds <= now + CLOCK_SKEW_SECONDS:
        bound = f"from the assignment to now (clocks may differ by {CLOCK_SKEW_SECONDS:g} seconds)"
        raise InvalidInput(f"completed_at: must be {bound}, got {given.isoformat()!r}", "completed_at")
    return min(max(seconds, admitted_at), now)
