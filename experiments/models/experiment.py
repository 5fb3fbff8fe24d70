"""Experiments, their variants and their phases."""

from __future__ import annotations

from django.contrib.postgres.constraints import ExclusionConstraint
from django.db import models
from django.db.models import BigIntegerField, F, Func, Q
from django.db.models.expressions import CombinedExpression
from django.db.models.functions import Cast

from experiments.assignment import BUCKETS
from experiments.models.serving import Checkpoint, UseCase


def _bucket_of_use_case(column: str) -> CombinedExpression:
    """A bucket's number among those of all use cases."""
    return Cast("use_case_id", BigIntegerField()) * BUCKETS + Cast(column, BigIntegerField())


_BUCKETS_OF_USE_CASE = Func(_bucket_of_use_case("layer_low"), _bucket_of_use_case("layer_high"), function="int8range")


class Experiment(models.Model):
    """A question about one use case: control against one or more treatments."""

    class State(models.TextChoices):
        DRAFT = "draft", "Draft"
        RUNNING = "running", "Running"
        PAUSED = "paused", "Paused"
        STOPPED = "stopped", "Stopped"

    class Conclusion(models.TextChoices):
        NONE = "", "None"
        SHIPPED = "shipped", "Shipped"
        REVERTED = "reverted", "Reverted"
        INCONCLUSIVE = "inconclusive", "Inconclusive"

    class Unit(models.TextChoices):
        CONVERSATION = "conversation", "Conversation"
        USER = "user", "User"
        REQUEST = "request", "Request"

    use_case = models.ForeignKey(UseCase, on_delete=models.PROTECT, related_name="experiments")
    name = models.CharField(max_length=120)
    hypothesis = models.TextField(blank=True)
    state = models.CharField(max_length=16, choices=State.choices, default=State.DRAFT)
    conclusion = models.CharField(max_length=16, choices=Conclusion.choices, default=Conclusion.NONE, blank=True)
    salt = models.CharField(max_length=64)
    unit = models.CharField(max_length=16, choices=Unit.choices, default=Unit.CONVERSATION)
    coverage = models.FloatField(default=1.0)
    coverage_since = models.DateTimeField(
        null=True, blank=True, help_text="Since when the coverage has been what it is, in the phase that runs."
    )
    ramp = models.JSONField(
        default=list, db_default=[], blank=True, help_text="Steps of coverage, each with the seconds that it is held."
    )
    layer = models.CharField(
        max_length=40, blank=True, default="", db_default="", help_text="Shared by experiments that exclude each other."
    )
    layer_low = models.PositiveSmallIntegerField(default=0, db_default=0)
    layer_high = models.PositiveSmallIntegerField(
        default=BUCKETS, db_default=BUCKETS, help_text="Its buckets of the layer are those from low up to high."
    )
    margin = models.FloatField()
    min_saving = models.FloatField()
    alpha = models.FloatField(default=0.05)
    maximum_units = models.PositiveIntegerField(
        help_text="Declared maximum sample over all arms; reached without a decision, the experiment is inconclusive."
    )
    tuning_units = models.PositiveIntegerField(
        default=5000,
        help_text="Units of control and treatment together at which the intervals are about tightest.",
    )
    automatic = models.BooleanField(
        default=True, help_text="Whether looks revert arms and end the experiment at its maximum by themselves."
    )
    false_revert_alpha = models.FloatField(
        default=0.05, help_text="Probability that an arm is reverted wrongly, over all looks and its guardrails."
    )
    guardrails = models.JSONField(default=list, blank=True, help_text="Metrics that revert an arm, with their bounds.")
    segments = models.JSONField(default=list, blank=True, help_text="Declared segments: each has its own harm test.")
    estimand_source = models.CharField(
        max_length=16,
        default="reference",
        help_text="The labels that EM is measured by: supplied references or a random audit sample.",
    )
    audit_every = models.PositiveIntegerField(
        default=0, help_text="One in so many requests is drawn for the audit at admission; 0: none."
    )
    proxy_source = models.CharField(
        max_length=16, blank=True, help_text="Labels that sharpen EM by prediction-powered estimates; empty: none."
    )
    shadow_share = models.FloatField(default=0.0, help_text="Share of the answered requests that get a shadow run.")
    label_window_seconds = models.PositiveIntegerField(
        default=0, help_text="A look counts only requests that are at least so old."
    )
    maximum_days = models.PositiveSmallIntegerField(null=True, blank=True, help_text="Declared maximum duration.")
    owner_email = models.EmailField(blank=True, help_text="Told when an arm is reverted.")
    looked_at = models.DateTimeField(null=True, blank=True)
    look_lease_until = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True, blank=True)
    stopped_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at", "-id"]
        constraints = [
            models.CheckConstraint(condition=Q(coverage__gte=0, coverage__lte=1), name="experiment_coverage"),
            models.CheckConstraint(condition=Q(margin__gt=0, margin__lt=1), name="experiment_margin"),
            models.CheckConstraint(condition=Q(min_saving__gt=-1, min_saving__lt=1), name="experiment_min_saving"),
            models.CheckConstraint(condition=Q(alpha__gt=0, alpha__lt=1), name="experiment_alpha"),
            models.CheckConstraint(
                condition=Q(false_revert_alpha__gt=0, false_revert_alpha__lt=0.5), name="experiment_false_revert_alpha"
            ),
            models.CheckConstraint(
                condition=Q(shadow_share__gte=0, shadow_share__lte=1), name="experiment_shadow_share"
            ),
            models.CheckConstraint(
                condition=Q(layer_low__gte=0, layer_low__lt=F("layer_high"), layer_high__lte=BUCKETS)
                & (~Q(layer="") | Q(layer_low=0, layer_high=BUCKETS)),
                name="experiment_layer",
            ),
            # Without a layer an experiment holds all buckets, so nothing runs beside it.
            ExclusionConstraint(
                expressions=[(_BUCKETS_OF_USE_CASE, "&&")],
                condition=Q(state="running"),
                name="running_experiments_are_disjoint",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def layer_range(self) -> list[int]:
        """Its buckets [low, high) of the layer."""
        return [self.layer_low, self.layer_high]

    @layer_range.setter
    def layer_range(self, buckets: list[int]) -> None:
        self.layer_low, self.layer_high = buckets

    @property
    def phase(self) -> Phase | None:
        """The newest phase, or None before the start."""
        return self.phases.order_by("-number").first()


class Variant(models.Model):
    """One arm: a stopping policy plus a checkpoint."""

    experiment = models.ForeignKey(Experiment, on_delete=models.CASCADE, related_name="variants")
    key = models.SlugField(max_length=40)
    position = models.PositiveSmallIntegerField()
    is_control = models.BooleanField(default=False)
    policy = models.JSONField()
    checkpoint = models.ForeignKey(Checkpoint, on_delete=models.PROTECT)
    weight = models.FloatField(help_text="Share of the units in the experiment, in (0, 1].")
    reverted_at = models.DateTimeField(null=True, blank=True)
    reverted_why = models.TextField(blank=True)
    ship_snapshot = models.ForeignKey(
        "experiments.Snapshot",
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        help_text="The last look of a phase whose verdict on this variant is ship; later phases leave it as it is.",
    )

    class Meta:
        ordering = ["experiment_id", "position"]
        constraints = [
            models.UniqueConstraint(fields=["experiment", "key"], name="variant_key_per_experiment"),
            models.UniqueConstraint(fields=["experiment", "position"], name="variant_position_per_experiment"),
            models.UniqueConstraint(
                fields=["experiment"], condition=Q(is_control=True), name="one_control_per_experiment"
            ),
            models.CheckConstraint(condition=Q(weight__gt=0, weight__lte=1), name="variant_weight"),
        ]

    def __str__(self) -> str:
        return self.key


class Phase(models.Model):
    """A stretch of an experiment in which nothing that matters changed. Phases are never pooled."""

    experiment = models.ForeignKey(Experiment, on_delete=models.CASCADE, related_name="phases")
    number = models.PositiveSmallIntegerField()
    weights = models.JSONField(help_text="Weight of each variant by key, as it was in this phase.")
    grading = models.CharField(
        max_length=100,
        blank=True,
        default="",
        db_default="",
        help_text="Identity of the grader whose labels count; empty: any, in phases from before it was kept.",
    )
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)
    counted_until = models.DateTimeField(
        null=True, blank=True, help_text="The accumulators hold the requests admitted before."
    )
    exposures = models.PositiveIntegerField(
        null=True, blank=True, help_text="Units that were exposed in it; kept some time after its end."
    )

    class Meta:
        ordering = ["experiment_id", "number"]
        constraints = [models.UniqueConstraint(fields=["experiment", "number"], name="phase_number_per_experiment")]

    def __str__(self) -> str:
        return f"{self.experiment} / phase {self.number}"
