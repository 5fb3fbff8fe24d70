"""Experiments: what they declare, their snapshots, and what waits for an audit."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from django.db.models import Prefetch, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from ninja import Router, Schema
from ninja.errors import HttpError
from pydantic import ConfigDict, Field, WithJsonSchema

from experiments.api.auth import KeyAuth
from experiments.models import Experiment, Snapshot
from experiments.policies import policies_schema
from experiments.services.declarations import declare
from experiments.services.errors import InvalidInput
from experiments.services.exports import course, snapshot_csv
from experiments.services.labels import audit_queue
from experiments.services.looks import newest_snapshot

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
    declare(f"key {request.auth.pk}", experiment, given)  # type: ignore[attr-defined]
    return read_experiment(request, experiment_id)


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
    return ExperimentOut(use_case=row.use_case.slug, variants=variants, **plain)
