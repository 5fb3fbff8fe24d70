"""Telling owners what happened by itself: a message is stored with the change, and delivered until it arrives."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from datetime import timedelta
from typing import Any

import httpx
from django.conf import settings
from django.core.mail import send_mail
from django.db.models import F, Q
from django.utils import timezone

from experiments.models import Experiment, Notification

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 12
TIMEOUT_SECONDS = 10.0
_CLAIM = timedelta(seconds=60)
_FIRST_PAUSE = timedelta(seconds=10)
_LONGEST_PAUSE = timedelta(hours=1)


def notify(
    experiment: Experiment, *, event: str, subject: str, message: str, details: dict[str, Any] | None = None
) -> list[Notification]:
    """Store a message for the experiment's owner and the configured webhook; call it inside the change's transaction.

    Args:
        experiment: what it is about.
        event: a stable name, e.g. "arm_reverted".
        subject: one line for people.
        message: why, in sentences.
        details: further JSON values for programs.
    """
    payload = {
        "event": event,
        "experiment": {"id": experiment.pk, "name": experiment.name, "use_case": experiment.use_case.slug},
        "subject": subject,
        "message": message,
        "at": timezone.now().isoformat(),
        "details": details or {},
    }
    now = timezone.now()
    return [
        Notification.objects.create(
            experiment=experiment, channel=channel, recipient=recipient, payload=payload, next_attempt_at=now
        )
        for channel, recipient in _recipients(experiment)
    ]


def _recipients(experiment: Experiment) -> list[tuple[str, str]]:
    addresses = dict.fromkeys(a for a in (experiment.owner_email, settings.NOTIFY_EMAIL) if a)
    found: list[tuple[str, str]] = [(Notification.Channel.EMAIL, address) for address in addresses]
    if settings.WEBHOOK_URL:
        found.append((Notification.Channel.WEBHOOK, settings.WEBHOOK_URL))
    return found


def deliver_due() -> int:
    """Try every message whose time has come; how many were delivered.

    A message is claimed by moving its next attempt, so that two workers don't send it at once; one that is killed
    in between leaves it for a minute later. Whoever receives it may see it twice, never not at all.
    """
    delivered = 0
    due = Q(delivered_at=None, next_attempt_at__lte=timezone.now(), attempts__lt=MAX_ATTEMPTS)
    for notification in Notification.objects.filter(due).order_by("next_attempt_at")[:100]:
        claimed = Notification.objects.filter(
            pk=notification.pk, delivered_at=None, next_attempt_at=notification.next_attempt_at
        ).update(next_attempt_at=timezone.now() + _CLAIM, attempts=F("attempts") + 1)
        if claimed == 1:
            notification.refresh_from_db()
            delivered += _attempt(notification)
    return delivered


def _attempt(notification: Notification) -> bool:
    try:
        if notification.channel == Notification.Channel.EMAIL:
            _send_mail(notification)
        else:
            _post(notification)
    except (OSError, httpx.HTTPError) as error:
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (notification.attempts - 1))
        notification.next_attempt_at = timezone.now() + pause
        notification.last_error = str(error)[:1000]
        notification.save(update_fields=["next_attempt_at", "last_error"])
        logger.warning("notification %d could not be delivered: %s", notification.pk, error)
        return False
    notification.delivered_at, notification.last_error = timezone.now(), ""
    notification.save(update_fields=["delivered_at", "last_error"])
    return True


def _send_mail(notification: Notification) -> None:
    payload = notification.payload
    body = f"{payload['message']}\n\nExperiment: {payload['experiment']['name']}\nAt: {payload['at']}\n"
    send_mail(f"[Curtail] {payload['subject']}", body, settings.DEFAULT_FROM_EMAIL, [notification.recipient])


def _post(notification: Notification) -> None:
    body = json.dumps(notification.payload, sort_keys=True).encode()
    headers = {"content-type": "application/json", "x-curtail-event": notification.payload["event"]}
    if settings.WEBHOOK_SECRET:
        digest = hmac.new(settings.WEBHOOK_SECRET.encode(), body, hashlib.sha256).hexdigest()
        headers["x-curtail-signature"] = f"sha256={digest}"
    # A redirect would lead to an address that no operator configured.
    answer = httpx.post(
        notification.recipient, content=body, headers=headers, timeout=TIMEOUT_SECONDS, follow_redirects=False
    )
    answer.raise_for_status()
