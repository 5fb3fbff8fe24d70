"""Reading experiments and their newest snapshot."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from ninja import Router, Schema
from ninja.errors import HttpError

from experiments.api.auth import KeyAuth
from experiments.models import Experiment
from experiments.services.looks import newest_snapshot

router = Router(tags=["experiments"], auth=KeyAuth("manage"))


class VariantOut(Schema):
    """One arm."""

    key: str
    is_control: bool
    policy: dict[str, Any]
    checkpoint: str
    weight: float


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
    variants: list[VariantOut]


@router.get("", response=list[ExperimentOut])
def list_experiments(request: HttpRequest) -> list[ExperimentOut]:
    """All experiments, the newest first."""
    rows = Experiment.objects.select_related("use_case").prefetch_related("variants__checkpoint__model")
    return [_out(row) for row in rows]


@router.get("/{int:experiment_id}", response=ExperimentOut)
def read_experiment(request: HttpRequest, experiment_id: int) -> ExperimentOut:
    """One experiment."""
    rows = Experiment.objects.select_related("use_case").prefetch_related("variants__checkpoint__model")
    return _out(get_object_or_404(rows, pk=experiment_id))


@router.get("/{int:experiment_id}/snapshot", response=dict[str, Any])
def read_snapshot(request: HttpRequest, experiment_id: int) -> dict[str, Any]:
    """The newest snapshot: estimates, health and verdict; 404 before the first look."""
    experiment = get_object_or_404(Experiment, pk=experiment_id)
    snapshot = newest_snapshot(experiment)
    if snapshot is None:
        raise HttpError(404, f"experiment {experiment_id} has not been looked at yet")
    data: dict[str, Any] = snapshot.data
    return {"taken_at": snapshot.taken_at.isoformat(), **data}


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
            ]
        )
    }
    variants = [
        VariantOut(key=v.key, is_control=v.is_control, policy=v.policy, checkpoint=str(v.checkpoint), weight=v.weight)
        for v in row.variants.all()
    ]
    return ExperimentOut(use_case=row.use_case.slug, variants=variants, **plain)
