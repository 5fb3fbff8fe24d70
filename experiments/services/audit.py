"""Audit events: every change of state, with before, after, why and who."""

from __future__ import annotations

from typing import Any

from django.db.models import Model

from experiments.models import AuditEvent


def record(
    actor: str,
    action: str,
    subject: Model,
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
    why: str = "",
) -> AuditEvent:
    """Store one event; call it inside the transaction of the change itself."""
    return AuditEvent.objects.create(
        actor=actor,
        action=action,
        subject_type=subject._meta.model_name or "",
        subject_id=str(subject.pk),
        before=before,
        after=after,
        why=why,
    )
