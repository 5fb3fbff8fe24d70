"""Who may call, and who did what."""

from __future__ import annotations

from django.db import models

from experiments.models.serving import UseCase


class ApiKey(models.Model):
    """A key of the API. Only its hash is stored."""

    class Scope(models.TextChoices):
        SERVE = "serve", "Serve"
        LABEL = "label", "Label"
        MANAGE = "manage", "Manage"

    name = models.CharField(max_length=120)
    prefix = models.CharField(max_length=16, help_text="The first characters, to recognise it by.")
    digest = models.CharField(max_length=64, unique=True)
    use_case = models.ForeignKey(UseCase, on_delete=models.PROTECT, related_name="api_keys")
    use_cases = models.ManyToManyField(
        UseCase, blank=True, related_name="+", help_text="Further use cases that its requests may name."
    )
    any_use_case = models.BooleanField(
        default=False, db_default=False, help_text="Whether its requests may name any use case."
    )
    scopes = models.JSONField(default=list)
    created_at = models.DateTimeField(auto_now_add=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}...)"


class AuditEvent(models.Model):
    """One change of state, with before, after, why and who. Never changed or deleted."""

    at = models.DateTimeField(auto_now_add=True)
    actor = models.CharField(max_length=150)
    action = models.CharField(max_length=64)
    subject_type = models.CharField(max_length=32)
    subject_id = models.CharField(max_length=64)
    before = models.JSONField(null=True)
    after = models.JSONField(null=True)
    why = models.TextField(blank=True)

    class Meta:
        ordering = ["-at", "-id"]
        indexes = [models.Index(fields=["subject_type", "subject_id", "-at"], name="audit_by_subject")]

    def __str__(self) -> str:
        return f"{self.action} {self.subject_type} {self.subject_id} by {self.actor}"
