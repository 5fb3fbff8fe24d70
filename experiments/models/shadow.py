"""Shadow runs: a completion's thinking, gone over again off the user's path."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from experiments.models.experiment import Variant
from experiments.models.traffic import Admission


class ShadowRun(models.Model):
    """One shadow run of one request.

    A treated request's thinking is continued past its exit; a control's is probed with a treatment's policy
    and answered where that would have left. Either way the pair shares the thought.
    """

    class Kind(models.TextChoices):
        CONTINUE = "continue", "Continued past the exit"
        PROBE = "probe", "Probed with the treatment's policy"

    class State(models.TextChoices):
        QUEUED = "queued", "Queued"
        ANSWERED = "answered", "Answered"
        FAILED = "failed", "Failed"

    id = models.CharField(primary_key=True, max_length=48)
    admission = models.OneToOneField(Admission, on_delete=models.PROTECT, related_name="shadow_run")
    treatment = models.ForeignKey(Variant, on_delete=models.PROTECT)
    kind = models.CharField(max_length=16, choices=Kind.choices)
    state = models.CharField(max_length=16, choices=State.choices, default=State.QUEUED)
    answer = models.TextField(blank=True)
    agrees = models.BooleanField(null=True, help_text="Whether both answers are equal after normalising.")
    correct = models.BooleanField(null=True, help_text="Of the shadow's answer, where there is a reference.")
    awaits_grading = models.BooleanField(
        default=False, db_default=False, help_text="To be graded by a grader that may take any time."
    )
    grading_failure = models.CharField(
        max_length=16, blank=True, default="", db_default="", help_text="Why it could not be graded, as of labels."
    )
    exit_reason = models.CharField(max_length=32, blank=True)
    decision_step = models.PositiveIntegerField(null=True)
    thinking_tokens = models.PositiveIntegerField(default=0)
    answer_tokens = models.PositiveIntegerField(default=0)
    probe_tokens = models.PositiveIntegerField(default=0)
    overrun_tokens = models.PositiveIntegerField(default=0)
    forced_tokens = models.PositiveIntegerField(default=0, help_text="Recorded thinking that was fed, not decoded.")
    error = models.TextField(blank=True)
    queued_at = models.DateTimeField()
    completed_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [
            models.Index(fields=["queued_at"], condition=Q(state="queued"), name="shadow_queued"),
            models.Index(fields=["completed_at"], condition=Q(awaits_grading=True), name="shadow_awaits_grading"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} of {self.admission_id}"
