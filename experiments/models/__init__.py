"""Tables. What changes them lives in ``experiments.services``."""

from __future__ import annotations

from experiments.models.access import ApiKey, AuditEvent
from experiments.models.accumulators import ArmMoments, CountedRequest, ProcessState, Recount, UnitTotals
from experiments.models.experiment import Experiment, Phase, Variant
from experiments.models.notification import Notification
from experiments.models.serving import Checkpoint, ModelProfile, UseCase
from experiments.models.shadow import ShadowRun
from experiments.models.snapshot import Snapshot
from experiments.models.traffic import Admission, Completion, Erasure, Exposure, Label

__all__ = [
    "Admission",
    "ApiKey",
    "ArmMoments",
    "AuditEvent",
    "Checkpoint",
    "Completion",
    "CountedRequest",
    "Erasure",
    "Experiment",
    "Exposure",
    "Label",
    "ModelProfile",
    "Notification",
    "Phase",
    "ProcessState",
    "Recount",
    "ShadowRun",
    "Snapshot",
    "UnitTotals",
    "UseCase",
    "Variant",
]
