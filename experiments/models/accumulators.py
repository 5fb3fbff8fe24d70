"""What the accumulators hold: sums per unit, moments per arm, and the state of running tests.

Written by ``experiments.services.accumulators`` alone. Everything but the tests' state and
the requests' history can be rebuilt from admissions, completions and labels.
"""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models

from experiments.models.experiment import Phase, Variant


class CountedRequest(models.Model):
    """What the accumulators hold of one request, so that a late label or a correction changes just the difference."""

    id = models.CharField(primary_key=True, max_length=48)
    phase = models.ForeignKey(Phase, on_delete=models.CASCADE)
    values = ArrayField(models.BigIntegerField())
    history = models.PositiveSmallIntegerField(
        default=0, db_default=0, help_text="Flags of what it went through while it was counted; a rebuild keeps them."
    )

    def __str__(self) -> str:
        return self.id


class Recount(models.Model):
    """A counted request whose completion, label or shadow run changed since."""

    admission_id = models.CharField(primary_key=True, max_length=48)
    phase = models.ForeignKey(Phase, on_delete=models.CASCADE)

    def __str__(self) -> str:
        return self.admission_id


class UnitTotals(models.Model):
    """Totals of one unit in one cohort of an arm. The columns are those of the arm's moments."""

    phase = models.ForeignKey(Phase, on_delete=models.CASCADE)
    variant = models.ForeignKey(Variant, on_delete=models.PROTECT)
    cohort = models.CharField(max_length=64, blank=True)
    unit_hash = models.CharField(max_length=32)
    totals = ArrayField(models.BigIntegerField())

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["phase", "variant", "cohort", "unit_hash"], name="one_row_of_totals")
        ]

    def __str__(self) -> str:
        return f"{self.unit_hash} of {self.variant_id}"


class ArmMoments(models.Model):
    """Sums and cross-products over the units of one cohort of an arm, and its sketches.

    The cohort is empty for all requests, ``segment:NAME`` for those of a segment, ``pairs`` for shadow runs.
    """

    phase = models.ForeignKey(Phase, on_delete=models.CASCADE)
    variant = models.ForeignKey(Variant, on_delete=models.PROTECT)
    cohort = models.CharField(max_length=64, blank=True)
    moments = models.JSONField()
    sketches = models.JSONField(default=dict)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["phase", "variant", "cohort"], name="one_row_of_moments")]

    def __str__(self) -> str:
        return f"{self.variant_id} {self.cohort}"


class ProcessState(models.Model):
    """State of a test that depends on the order of its data, to go on from at the next look."""

    phase = models.ForeignKey(Phase, on_delete=models.CASCADE)
    variant = models.ForeignKey(Variant, on_delete=models.PROTECT, help_text="The treatment.")
    name = models.CharField(max_length=64)
    state = models.JSONField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["phase", "variant", "name"], name="one_state_per_test")]

    def __str__(self) -> str:
        return f"{self.name} of {self.variant_id}"
