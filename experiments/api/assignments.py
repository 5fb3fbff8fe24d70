"""POST /api/v1/assignments: which variant a unit gets, for whoever serves it elsewhere."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from django.http import HttpRequest
from ninja import Router, Schema
from ninja.responses import Status
from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema

from experiments.api.auth import KeyAuth
from experiments.grading import MAX_REFERENCE_LENGTH, normalise_answer
from experiments.models import ApiKey
from experiments.policies import policies_schema
from experiments.segment_names import SEGMENT
from experiments.services.assigning import MAX_DEADLINE_SECONDS, Wanted, assign_elsewhere
from experiments.services.errors import InvalidInput
from experiments.services.text import without_nul

router = Router(tags=["serving elsewhere"])
MAX_PROMPT_CHARACTERS = 2**31 - 1


def _segment(text: str) -> str:
    if text and not SEGMENT.fullmatch(text):
        raise ValueError(f"must be 1 to 40 letters, digits, . - and _, got {text!r}")
    return text


def _reference(text: str) -> str:
    # Judged as the grader judges it: a reference that it takes for empty could never be graded.
    if not normalise_answer(text):
        raise ValueError("must not be empty")
    return without_nul(text)


Unit = Annotated[str, Field(min_length=1, max_length=512), AfterValidator(without_nul)]
Segment = Annotated[str, AfterValidator(_segment)]
Reference = Annotated[str, Field(max_length=MAX_REFERENCE_LENGTH), AfterValidator(_reference)]


class MetadataIn(Schema):
    """What the gateway takes in ``metadata``; each stands in for the field that is left out."""

    model_config = ConfigDict(extra="forbid")

    conversation_id: Unit | None = None
    segment: Segment | None = None
    reference: Reference | None = None


class AssignmentIn(Schema):
    """Who is to be assigned."""

    model_config = ConfigDict(extra="forbid")

    use_case: str | None = None
    conversation: Unit | None = None
    user: Unit | None = None
    request: Unit | None = None
    segment: Segment | None = None
    reference: Reference | None = None
    metadata: MetadataIn = Field(default_factory=MetadataIn)
    prompt_characters: int = Field(default=0, ge=0, le=MAX_PROMPT_CHARACTERS)
    deadline_seconds: float | None = Field(default=None, gt=0, le=MAX_DEADLINE_SECONDS, allow_inf_nan=False)


class AssignmentOut(Schema):
    """What serves the unit; experiment, phase and variant are empty where it is in no experiment."""

    id: str
    use_case: str
    experiment: int | None
    phase: int | None
    variant: str | None
    policy: Annotated[dict[str, Any], WithJsonSchema(policies_schema())]
    policy_version: str
    checkpoint: str
    exposed: bool
    suspended: bool
    admitted_at: datetime
    deadline_at: datetime


@router.post("", auth=KeyAuth("serve"), response={201: AssignmentOut})
def create_assignment(request: HttpRequest, wanted: AssignmentIn) -> Status[AssignmentOut]:
    """Assign a unit and record its exposure. Each call is one admitted request, which should get its completion."""
    key: ApiKey = request.auth  # type: ignore[attr-defined]
    slug = key.use_case.slug
    if wanted.use_case not in (None, slug):
        raise InvalidInput(f"use_case must be {slug!r}, this key's, got {wanted.use_case!r}", "use_case")
    said = wanted.metadata
    found = assign_elsewhere(
        slug,
        Wanted(
            units={
                "conversation": wanted.conversation or said.conversation_id,
                "user": wanted.user,
                "request": wanted.request,
            },
            segment=wanted.segment or said.segment or "",
            reference=wanted.reference or said.reference,
            prompt_characters=wanted.prompt_characters,
            deadline_seconds=wanted.deadline_seconds,
        ),
    )
    arm, experiment = found.assignment.arm, found.assignment.experiment
    return Status(
        201,
        AssignmentOut(
            id=found.id,
            use_case=found.use_case,
            experiment=experiment.id if experiment else None,
            phase=experiment.phase_id if experiment else None,
            variant=arm.variant_key,
            policy=dict(arm.policy),
            policy_version=arm.policy_version,
            checkpoint=found.checkpoint,
            exposed=experiment is not None,
            suspended=found.assignment.suspended,
            admitted_at=datetime.fromtimestamp(found.admitted_at, UTC),
            deadline_at=datetime.fromtimestamp(found.deadline_at, UTC),
        ),
    )
