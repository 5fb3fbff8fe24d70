"""Stored results of looks."""

from __future__ import annotations

from django.db import models

from experiments.models.experiment import Phase


class Snapshot(models.Model):
    """One look at one phase: everything the page, the API and the verdict need, frozen."""

    phase = models.ForeignKey(Phase, on_delete=models.CASCADE, related_name="snapshots")
    taken_at = models.DateTimeField()
    data = models.JSONField()

    class Meta:
        ordering = ["-taken_at", "-id"]
        indexes = [models.Index(fields=["phase", "-taken_at"], name="snapshot_newest")]

    def __str__(self) -> str:
        return f"{self.phase} at {self.taken_at:%Y-%m-%d %H:%M:%S}"
