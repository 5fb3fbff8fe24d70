"""What is served: model profiles, their checkpoints, and the use cases that route to them."""

from __future__ import annotations

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models


class ModelProfile(models.Model):
    """How one model thinks, and which engine serves it."""

    class Engine(models.TextChoices):
        TRANSFORMERS = "transformers", "transformers (PyTorch)"
        VLLM = "vllm", "vLLM"
        SCRIPTED = "scripted", "scripted (for tests)"
        OPENAI = "openai", "OpenAI-compatible server"

    name = models.SlugField(max_length=64, unique=True)
    engine = models.CharField(max_length=32, choices=Engine.choices, default=Engine.TRANSFORMERS)
    think_open = models.CharField(max_length=64, default="<think>")
    think_close = models.CharField(max_length=64, default="</think>")
    template_opens_thinking = models.BooleanField(
        default=True, help_text="Whether the chat template already opens the thinking."
    )
    step_boundary = models.CharField(
        max_length=64, blank=True, help_text="Text that ends a thinking step; empty: every token ends one."
    )
    trial_suffix = models.CharField(
        max_length=256, blank=True, help_text="Text after the end-of-thinking tag that opens a trial answer."
    )
    max_trial_tokens = models.PositiveIntegerField(default=32, validators=[MinValueValidator(1)])
    answer_pattern = models.CharField(
        max_length=256,
        blank=True,
        help_text="Where the answer is: boxed:, final:, json:path.to.field or a regular expression; "
        "empty: all text after thinking.",
    )
    grader = models.CharField(max_length=64, default="exact_match")
    grader_options = models.JSONField(
        default=dict, db_default={}, blank=True, help_text="Options of the grader by name; what is left out is default."
    )
    max_context_tokens = models.PositiveIntegerField(validators=[MinValueValidator(1)])
    temperature = models.FloatField(
        default=0.0,
        validators=[MinValueValidator(0.0), MaxValueValidator(2.0)],
        help_text="Used when a request names none.",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.name


class Checkpoint(models.Model):
    """A set of weights of a model that can be served."""

    model = models.ForeignKey(ModelProfile, on_delete=models.PROTECT, related_name="checkpoints")
    name = models.SlugField(max_length=64)
    path = models.CharField(max_length=1024)
    step = models.PositiveIntegerField(null=True, blank=True, help_text="Training step, if it is one of a run.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["model", "name"], name="checkpoint_name_per_model")]
        ordering = ["model_id", "-step", "name"]

    def __str__(self) -> str:
        return f"{self.model.name}/{self.name}"


class UseCase(models.Model):
    """A route: what is served to whom, and how much EM may be given up for how many tokens."""

    class Retention(models.TextChoices):
        KEEP = "keep", "Kept"
        HASH = "hash", "Keyed hashes only"
        DROP = "drop", "Dropped"

    slug = models.SlugField(max_length=64, unique=True)
    name = models.CharField(max_length=120)
    checkpoint = models.ForeignKey(
        Checkpoint, on_delete=models.PROTECT, help_text="Served with the policy in force outside experiments."
    )
    policy = models.JSONField(help_text="The policy in force.")
    margin = models.FloatField(default=0.02)
    min_saving = models.FloatField(default=0.05)
    deadline_seconds = models.FloatField(default=60.0)
    holdout = models.FloatField(
        default=0.0, db_default=0.0, help_text="Share of the units that never enters an experiment."
    )
    holdout_salt = models.CharField(max_length=64, blank=True, default="", db_default="")
    policies_by_context = models.JSONField(
        default=dict,
        db_default={},
        blank=True,
        help_text="Policies that are in force instead in some contexts, by the context's name.",
    )
    retention = models.CharField(
        max_length=8,
        choices=Retention.choices,
        default=Retention.KEEP,
        db_default="keep",
        help_text="What becomes of prompts, thinking, answers and references.",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=models.Q(margin__gt=0, margin__lt=1), name="use_case_margin"),
            models.CheckConstraint(condition=models.Q(min_saving__gt=-1, min_saving__lt=1), name="use_case_min_saving"),
            models.CheckConstraint(condition=models.Q(deadline_seconds__gt=0), name="use_case_deadline"),
            models.CheckConstraint(condition=models.Q(holdout__gte=0, holdout__lt=1), name="use_case_holdout"),
        ]

    def __str__(self) -> str:
        return self.name
