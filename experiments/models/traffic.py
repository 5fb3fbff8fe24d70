"""What happened: admissions, first exposures, completions and labels.

Written in batches by the ledger writer (``experiments.services.ledger``), never per request.
"""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from experiments.models.experiment import Phase, Variant
from experiments.models.serving import Checkpoint, UseCase


class Admission(models.Model):
    """One admitted request, recorded before it is served."""

    id = models.CharField(primary_key=True, max_length=48)
    use_case = models.ForeignKey(UseCase, on_delete=models.PROTECT)
    checkpoint = models.ForeignKey(Checkpoint, on_delete=models.PROTECT)
    phase = models.ForeignKey(Phase, on_delete=models.PROTECT, null=True)
    variant = models.ForeignKey(Variant, on_delete=models.PROTECT, null=True)
    unit_hash = models.CharField(max_length=32, blank=True, help_text="Keyed hash of the unit id; empty: no unit.")
    policy = models.JSONField()
    policy_version = models.CharField(max_length=16)
    reference = models.TextField(null=True)
    admitted_at = models.DateTimeField()
    deadline_at = models.DateTimeField()
    prompt_characters = models.PositiveIntegerField(
        default=0,
        db_default=0,
        help_text="Length of the messages; the first one of a unit is a covariate from before exposure.",
    )
    segment = models.CharField(max_length=40, blank=True, default="", db_default="")
    audit_every = models.PositiveIntegerField(
        default=0, db_default=0, help_text="The audit drew one in so many at this admission; 0: none."
    )
    audited = models.BooleanField(default=False, db_default=False, help_text="Drawn for the audit.")
    sampling = models.JSONField(
        default=dict, db_default={}, help_text="Temperature, top_p and max_tokens that it was decoded with."
    )
    shadowed = models.BooleanField(default=False, db_default=False, help_text="Drawn for a shadow run.")
    retention = models.CharField(
        max_length=8, default="keep", db_default="keep", help_text="What becomes of its texts; drop once it was erased."
    )
    user_hash = models.CharField(max_length=32, blank=True, default="", db_default="")
    conversation_hash = models.CharField(max_length=32, blank=True, default="", db_default="")

    class Meta:
        indexes = [
            models.Index(fields=["phase", "admitted_at"], name="admission_by_phase"),
            models.Index(
                fields=["deadline_at"], condition=Q(reference__startswith="sealed:1:"), name="admission_sealed"
            ),
            # For erasure.
            *(
                models.Index(fields=[name], condition=~Q(**{name: ""}), name=f"admission_by_{name}")
                for name in ("unit_hash", "user_hash", "conversation_hash")
            ),
        ]

    def __str__(self) -> str:
        return self.id


class Exposure(models.Model):
    """A unit's first admission to a variant within a phase."""

    phase = models.ForeignKey(Phase, on_delete=models.PROTECT)
    variant = models.ForeignKey(Variant, on_delete=models.PROTECT)
    unit_hash = models.CharField(max_length=32)
    admission = models.OneToOneField(Admission, on_delete=models.PROTECT)
    exposed_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["phase", "unit_hash"], name="one_exposure_per_unit_and_phase")]

    def __str__(self) -> str:
        return f"{self.unit_hash} in {self.variant_id}"


class Completion(models.Model):
    """How an admitted request ended. Its id is the admission's."""

    class Outcome(models.TextChoices):
        ANSWERED = "answered", "Answered"
        ERROR = "error", "Error"
        TIMEOUT = "timeout", "Timeout"
        CANCELLED = "cancelled", "Cancelled"

    id = models.CharField(primary_key=True, max_length=48)
    outcome = models.CharField(max_length=16, choices=Outcome.choices)
    finish_reason = models.CharField(max_length=16, blank=True)
    exit_reason = models.CharField(max_length=32, blank=True)
    exit_detail = models.CharField(max_length=200, blank=True)
    decision_step = models.PositiveIntegerField(null=True)
    applied_step = models.PositiveIntegerField(null=True)
    prompt_tokens = models.PositiveIntegerField(default=0)
    thinking_tokens = models.PositiveIntegerField(default=0)
    answer_tokens = models.PositiveIntegerField(default=0)
    probe_tokens = models.PositiveIntegerField(default=0)
    overrun_tokens = models.PositiveIntegerField(default=0)
    decoded_tokens = models.GeneratedField(
        expression=models.F("thinking_tokens")
        + models.F("answer_tokens")
        + models.F("probe_tokens")
        + models.F("overrun_tokens"),
        output_field=models.PositiveIntegerField(),
        db_persist=True,
    )
    prefill_tokens = models.PositiveIntegerField(
        default=0, db_default=0, help_text="Computed anew for probes and continuations, because no cache held them."
    )
    probes = models.PositiveIntegerField(default=0)
    enforcement_failures = models.CharField(
        max_length=128,
        blank=True,
        db_default="",
        help_text="How the decided exit was not put into effect as it should have been; comma-separated.",
    )
    estimated_counts = models.CharField(
        max_length=128,
        blank=True,
        db_default="",
        help_text="Kinds of tokens whose counts a remote server did not tell; comma-separated.",
    )
    messages = models.JSONField(null=True)
    thinking = models.TextField(blank=True)
    text = models.TextField(blank=True, help_text="What the client got after the thinking.")
    answer = models.TextField(blank=True, help_text="The answer extracted from the text.")
    error = models.TextField(blank=True)
    queue_seconds = models.FloatField(null=True, help_text="From admission to the engine's start.")
    latency_seconds = models.FloatField(null=True, help_text="From admission to the end.")
    deliveries = models.PositiveSmallIntegerField(
        default=1, db_default=1, help_text="How often the request was handed to an engine host."
    )
    completed_at = models.DateTimeField()
    retention = models.CharField(max_length=8, default="keep", db_default="keep")
    answer_removed = models.BooleanField(
        default=False, db_default=False, help_text="There was an answer, and it was dropped or erased."
    )

    def __str__(self) -> str:
        return self.id


class Erasure(models.Model):
    """That the texts of a unit were erased: what comes in later of requests admitted until then is erased as well."""

    use_case = models.ForeignKey(UseCase, on_delete=models.PROTECT)
    digest = models.CharField(max_length=32, help_text="Keyed hash of the unit id.")
    admitted_until = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["use_case", "digest"], name="one_erasure_per_unit")]

    def __str__(self) -> str:
        return f"erasure in {self.use_case_id}"


class Label(models.Model):
    """Evidence on one completion's correctness."""

    class Source(models.TextChoices):
        REFERENCE = "reference", "Reference"
        AUDIT = "audit", "Audit"
        JUDGE = "judge", "Judge"
        FEEDBACK = "feedback", "User feedback"
        AGREEMENT = "agreement", "Agreement with the full answer"

    class Failure(models.TextChoices):
        NONE = "", "None"
        TIMEOUT = "timeout", "The grader timed out"
        REFERENCE = "reference", "The grader cannot use the reference"
        JUDGE = "judge", "The grader failed"

    admission = models.ForeignKey(Admission, on_delete=models.PROTECT, related_name="labels")
    source = models.CharField(max_length=16, choices=Source.choices)
    grader = models.CharField(max_length=64)
    grader_version = models.PositiveSmallIntegerField()
    grader_options = models.JSONField(default=dict, db_default={})
    grading = models.CharField(
        max_length=100, default="", db_default="", help_text="Identity of the grader: name, version, hash of options."
    )
    reference = models.TextField(blank=True)
    correct = models.BooleanField(null=True, help_text="Empty until it is graded, and where grading failed.")
    failure = models.CharField(
        max_length=16,
        choices=Failure.choices,
        blank=True,
        default=Failure.NONE,
        db_default="",
        help_text="Why it could not be graded: such a label counts as none.",
    )
    failure_detail = models.CharField(max_length=200, blank=True, default="", db_default="")
    score = models.PositiveSmallIntegerField(
        null=True, help_text="Percent, of a source that predicts correctness (judge, feedback, agreement)."
    )
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["admission", "source"], name="one_label_per_source"),
        ]
        indexes = [
            models.Index(
                fields=["admission"], condition=Q(correct=None, score=None, failure=""), name="label_awaits_grading"
            )
        ]

    def __str__(self) -> str:
        return f"{self.source} label of {self.admission_id}"
