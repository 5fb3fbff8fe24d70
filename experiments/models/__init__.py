"""Tables. What changes them lives in ``experiments.services``."""

from __future__ import annotations

from experiments.models.access import ApiKey, AuditEvent
from experiments.models.experiment import Experiment, Phase, Variant
from experiments.models.serving import Checkpoint, ModelProfile, UseCase
from experiments.models.snapshot import Snapshot
from experiments.models.traffic import Admission, Completion, Exposure, Label

__all__ = [
    "Admission",
    "ApiKey",
    "AuditEvent",
    "Checkpoint",
    "Completion",
    "Experiment",
    "Exposure",
    "Label",
    "ModelProfile",
    "Phase",
    "Snapshot",
    "UseCase",
    "Variant",
]
