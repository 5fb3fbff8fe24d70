"""A model, a use case, experiments and ledger records for the tests of the services."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from experiments.models import Checkpoint, Experiment, ModelProfile, Phase, UseCase
from experiments.services import experiments as service
from experiments.wire import AdmissionRecord, CompletionRecord

FULL = {"name": "full", "parameters": {"max_thinking_tokens": None, "wrap_up": ""}}
SHORT = {"name": "confidence", "parameters": {"threshold": 0.9}}
NOON = 1_750_000_000.0  # seconds since the epoch

Admit = Callable[..., AdmissionRecord]


@pytest.fixture
def model(db: None) -> ModelProfile:
    """A model."""
    return ModelProfile.objects.create(name="tiny", max_context_tokens=512)


@pytest.fixture
def checkpoint(model: ModelProfile) -> Checkpoint:
    """Its weights."""
    return Checkpoint.objects.create(model=model, name="last", path="/nowhere", step=1000)


@pytest.fixture
def use_case(checkpoint: Checkpoint) -> UseCase:
    """A use case with a margin of 5 points and a minimum saving of 20 percent."""
    return UseCase.objects.create(
        slug="arithmetic", name="Arithmetic", checkpoint=checkpoint, policy=FULL, margin=0.05, min_saving=0.2
    )


@pytest.fixture
def draft(use_case: UseCase) -> Experiment:
    """Full against an early exit, half and half, not started."""
    return make_draft(use_case)


@pytest.fixture
def running(draft: Experiment) -> Experiment:
    """The same, started."""
    return service.start("ada", draft)


@pytest.fixture
def phase(running: Experiment) -> Phase:
    """Its phase."""
    found = running.phase
    assert found is not None
    return found


@pytest.fixture
def admit(use_case: UseCase) -> Admit:
    """Makes the record of an admission; outside experiments unless ``phase`` and ``variant`` are given."""

    def make(
        number: str, *, phase: Phase | None = None, variant: str = "", unit: str = "", **options: Any
    ) -> AdmissionRecord:
        variant_id = phase.experiment.variants.get(key=variant).pk if phase else None
        fields: dict[str, Any] = {
            "id": number,
            "use_case_id": use_case.pk,
            "checkpoint_id": use_case.checkpoint_id,
            "phase_id": phase.pk if phase else None,
            "variant_id": variant_id,
            "unit_hash": unit,
            "policy": FULL,
            "policy_version": "v1",
            "reference": None,
            "admitted_at": NOON,
            "deadline_at": NOON + 60,
        }
        return AdmissionRecord(**fields | options)

    return make


def arms(checkpoint: Checkpoint) -> list[service.VariantSpec]:
    """Full against an early exit, half and half."""
    return [
        service.VariantSpec("full", FULL, checkpoint, 0.5, is_control=True),
        service.VariantSpec("short", SHORT, checkpoint, 0.5),
    ]


def make_draft(use_case: UseCase, name: str = "Early exit", **options: Any) -> Experiment:
    """A draft of these arms."""
    return service.create_experiment("ada", use_case, name, arms(use_case.checkpoint), **options)


def answered(number: str, answer: str = "42", **options: Any) -> CompletionRecord:
    """The record of an answered completion."""
    return CompletionRecord(number, "answered", NOON + 1, text=answer, answer=answer, **options)
