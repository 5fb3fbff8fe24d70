"""Experiments: what they declare, their snapshots, and what waits for an audit."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import Annotated, Any

from django.db.models import Prefetch, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from ninja import Router, Schema
from ninja.errors import HttpError
from ninja.responses import Status
from pydantic import ConfigDict, Field, WithJsonSchema

from experiments.api.auth import KeyAuth
from experiments.assignment import BUCKETS
from experiments.models import Experiment, Snapshot
from experiments.policies import policies_schema
from experiments.ramp import MAX_HOLD_SECONDS, MAX_STEPS
from experiments.services.declarations import declare
from experiments.services.errors import InvalidInput
from experiments.services.exports import course, snapshot_csv
from experiments.services.forcing import HEADER, issue_header
from experiments.services.labels import audit_queue
from experiments.services.looks import newest_snapshot
from experiments.services.ramps import raise_coverage, ramp_status

router = Router(tags=["experiments"], auth=KeyAuth("manage"))
MAX_LOOKS = 10_000


class VariantOut(Schema):
    """One arm."""

    key: str
    is_control: bool
    policy: Annotated[dict[str, Any], WithJsonSchema(policies_schema())]
    checkpoint: str
    weight: float
    reverted_at: datetime | None
    ship_shown_at: datetime | None


class StepSchema(Schema):
    """A step of a ramp: a coverage, and the seconds that it is held before the next."""

    model_config = ConfigDict(extra="forbid")

    coverage: float = Field(gt=0, le=1)
    hold_seconds: int = Field(ge=0, le=MAX_HOLD_SECONDS)


class RampStatusOut(Schema):
    """Where a running experiment is on its ramp: what comes next, when its time comes, and what holds it (or "")."""

    next_coverage: float
    due_at: datetime
    held: str


class ExperimentOut(Schema):
    """An experiment and its settings."""

    id: int
    name: str
    hypothesis: str
    state: str
    conclusion: str
    use_case: str
    unit: str
    coverage: float
    ramp: list[StepSchema]
    ramp_status: RampStatusOut | None
    layer: str
    layer_range: list[int]
    margin: float
    min_saving: float
    alpha: float
    maximum_units: int
    maximum_days: int | None
    automatic: bool
    false_revert_alpha: float
    guardrails: list[dict[str, Any]]
    segments: list[str]
    estimand_source: str
    audit_every: int
    proxy_source: str
    shadow_share: float
    label_window_seconds: int
    owner_email: str
    variants: list[VariantOut]


class GuardrailIn(Schema):
    """A metric with its bound; see ``experiments.statistics.guardrails``."""

    model_config = ConfigDict(extra="forbid")

    metric: str
    bound: float | None = None
    action: str | None = None
    seconds: float | None = None


class DeclarationsIn(Schema):
    """What a draft declares; what is left out stays as it is."""

    model_config = ConfigDict(extra="forbid")

    automatic: bool = True
    guardrails: list[GuardrailIn] = Field(default_factory=list)
    segments: list[str] = Field(default_factory=list)
    false_revert_alpha: float = 0.05
    estimand_source: str = "reference"
    audit_every: int = 0
    proxy_source: str = ""
    shadow_share: float = 0.0
    label_window_seconds: int = 0
    maximum_days: int | None = None
    owner_email: str = ""
    coverage: float = 1.0
    ramp: list[StepSchema] = Field(default_factory=list, max_length=MAX_STEPS)
    layer: str = ""
    layer_range: list[int] = Field(
        default=[0, BUCKETS],
        min_length=2,
        max_length=2,
        description="Its buckets [low, high) of the layer; disjoint from those of its other running experiments.",
    )


class CoverageIn(Schema):
    """A higher coverage, and why."""

    model_config = ConfigDict(extra="forbid")

    coverage: float
    why: str = ""


class ForcedVariantIn(Schema):
    """Whose header is wanted, and how long it is valid."""

    model_config = ConfigDict(extra="forbid")

    variant: str
    seconds: int = 3600


class ForcedVariantOut(Schema):
    """A header to be sent along with requests on /v1 until it expires (seconds since the epoch)."""

    header: str
    value: str
    expires: int


@router.get("", response=list[ExperimentOut])
def list_experiments(request: HttpRequest) -> list[ExperimentOut]:
    """All experiments of the key's use case, the newest first."""
    return [_out(row) for row in _rows(request)]


@router.get("/{experiment_id}", response=ExperimentOut)
def read_experiment(request: HttpRequest, experiment_id: int) -> ExperimentOut:
    """One experiment."""
    return _out(get_object_or_404(_rows(request), pk=experiment_id))


@router.patch("/{experiment_id}", response=ExperimentOut)
def change_experiment(request: HttpRequest, experiment_id: int, changes: DeclarationsIn) -> ExperimentOut:
    """Change what a draft declares: guardrails, segments, labels, the maximum duration, whom to tell."""
    experiment = get_object_or_404(_own(request), pk=experiment_id)
    given = changes.model_dump(exclude_unset=True)
    declare(_actor(request), experiment, given)
    return read_experiment(request, experiment_id)


@router.post("/{experiment_id}/coverage", response=ExperimentOut)
def raise_experiment_coverage(request: HttpRequest, experiment_id: int, wanted: CoverageIn) -> ExperimentOut:
    """Take more units into a running experiment; no unit that is in moves, and no phase opens."""
    experiment = get_object_or_404(_own(request), pk=experiment_id)
    raise_coverage(_actor(request), experiment, wanted.coverage, wanted.why)
    return read_experiment(request, experiment_id)


@router.post("/{experiment_id}/forced-variants", response={201: ForcedVariantOut})
def force_variant(request: HttpRequest, experiment_id: int, wanted: ForcedVariantIn) -> Status[ForcedVariantOut]:
    """Make a header by which testers are served by a variant; their requests count nowhere."""
    experiment = get_object_or_404(_own(request), pk=experiment_id)
    issued = issue_header(_actor(request), experiment, wanted.variant, wanted.seconds)
    return Status(201, ForcedVariantOut(header=HEADER, value=issued.value, expires=issued.expires))


@router.get("/{experiment_id}/snapshot", response=dict[str, Any])
def read_snapshot(request: HttpRequest, experiment_id: int) -> dict[str, Any]:
    """The newest snapshot: estimates, health and verdict; 404 before the first look."""
    snapshot = _newest(request, experiment_id)
    data: dict[str, Any] = snapshot.data
    return {"taken_at": snapshot.taken_at.isoformat(), **data}


@router.get("/{experiment_id}/snapshot.csv")
def read_snapshot_csv(request: HttpRequest, experiment_id: int) -> HttpResponse:
    """The newest snapshot as CSV: subject, quantity (the path in the JSON form) and value."""
    name = f'attachment; filename="experiment-{experiment_id}.csv"'
    body = snapshot_csv(_newest(request, experiment_id))
    return HttpResponse(body, content_type="text/csv; charset=utf-8", headers={"content-disposition": name})


@router.get("/{experiment_id}/snapshots", response=list[dict[str, Any]])
def read_course(request: HttpRequest, experiment_id: int, limit: int = 1_000) -> list[dict[str, Any]]:
    """The newest looks over all phases, the oldest first: both contrasts of each treatment over time."""
    if not 1 <= limit <= MAX_LOOKS:
        raise InvalidInput(f"limit must be from 1 to {MAX_LOOKS}, got {limit}", "limit")
    return course(get_object_or_404(_own(request), pk=experiment_id), limit)


@router.get("/{experiment_id}/audit", response=list[str])
def read_audit(request: HttpRequest, experiment_id: int, limit: int = 1_000) -> list[str]:
    """Ids of the newest answered completions that the audit drew and nobody has labelled yet."""
    if not 1 <= limit <= MAX_LOOKS:
        raise InvalidInput(f"limit must be from 1 to {MAX_LOOKS}, got {limit}", "limit")
    experiment = get_object_or_404(_own(request), pk=experiment_id)
    return audit_queue(experiment, limit)


def _newest(request: HttpRequest, experiment_id: int) -> Snapshot:
    snapshot = newest_snapshot(get_object_or_404(_own(request), pk=experiment_id))
    if snapshot is None:
        raise HttpError(404, f"experiment {experiment_id} has not been looked at yet")
    return snapshot


def _actor(request: HttpRequest) -> str:
    return f"key {request.auth.pk}"  # type: ignore[attr-defined]


def _own(request: HttpRequest) -> QuerySet[Experiment]:
    """Those of the key's use case: to a key all others do not exist."""
    return Experiment.objects.filter(use_case_id=request.auth.use_case_id)  # type: ignore[attr-defined]


def _rows(request: HttpRequest) -> QuerySet[Experiment]:
    shown = Prefetch("variants__ship_snapshot", Snapshot.objects.defer("data"))
    return _own(request).select_related("use_case").prefetch_related("variants__checkpoint__model", shown)


def _out(row: Experiment) -> ExperimentOut:
    plain = {
        name: getattr(row, name)
        for name in (
            [
                "id",
                "name",
                "hypothesis",
                "state",
                "conclusion",
                "unit",
                "coverage",
                "ramp",
                "layer",
                "layer_range",
                "margin",
                "min_saving",
                "alpha",
                "maximum_units",
                "maximum_days",
                "automatic",
                "false_revert_alpha",
                "guardrails",
                "segments",
                "estimand_source",
                "audit_every",
                "proxy_source",
                "shadow_share",
                "label_window_seconds",
                "owner_email",
            ]
        )
    }
    variants = [
        VariantOut(
            key=v.key,
            is_control=v.is_control,
            policy=v.policy,
            checkpoint=str(v.checkpoint),
            weight=v.weight,
            reverted_at=v.reverted_at,
            ship_shown_at=v.ship_snapshot.taken_at if v.ship_snapshot else None,
        )
        for v in row.variants.all()
    ]
    status = ramp_status(row)
    shown = RampStatusOut(**dataclasses.asdict(status)) if status else None
    return ExperimentOut(use_case=row.use_case.slug, variants=variants, ramp_status=shown, **plain)
