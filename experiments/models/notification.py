"""What an owner is told: kept until it has been delivered."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from experiments.models.experiment import Experiment


class Notification(models.Model):
    """One message on its way to one address by one channel."""

    class Channel(models.TextChoices):
        EMAIL = "email", "E-mail"
        WEBHOOK = "webhook", "Webhook"

    experiment = models.ForeignKey(Experiment, on_delete=models.CASCADE, related_name="notifications")
    channel = models.CharField(max_length=16, choices=Channel.choices)
    recipient = models.CharField(max_length=512)
    payload = models.JSONField()
    created_at = models.DateTimeField(auto_now_add=True)
    delivered_at = models.DateTimeField(null=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    next_attempt_at = models.DateTimeField(null=True)
    last_error = models.TextField(blank=True)

    class Meta:
        ordering = ["-created_at", "-id"]
        indexes = [
            models.Index(fields=["next_attempt_at"], condition=Q(delivered_at=None), name="notification_undelivered")
        ]

    def __str__(self) -> str:
        return f"{self.channel} to {self.recipient}"
