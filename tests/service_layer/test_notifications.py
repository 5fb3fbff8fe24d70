"""Messages to owners are delivered until they arrive."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from django.core import mail
from django.utils import timezone

from experiments.models import Experiment, Notification
from experiments.services.notifications import MAX_ATTEMPTS, deliver_due, notify


class Hook(HTTPServer):
    """A webhook's receiver that answers with `status`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 204
        self.location = ""
        self.seen: list[tuple[dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"


class _Handler(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"] or 0))
        self.server.seen.append(({key.lower(): value for key, value in self.headers.items()}, body))
        self.send_response(self.server.status)
        if self.server.status in (302, 307):
            self.send_header("location", self.server.location or self.server.url + "/elsewhere")
        self.end_headers()

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving() -> Iterator[Hook]:
    with Hook() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def hook(settings: Any) -> Iterator[Hook]:
    """A running receiver that the settings name."""
    with serving() as server:
        settings.WEBHOOK_URL = server.url
        yield server


@pytest.fixture
def elsewhere() -> Iterator[Hook]:
    """Another one, which no setting names."""
    with serving() as server:
        yield server


def tell(experiment: Experiment) -> None:
    notify(experiment, event="arm_reverted", subject="short was reverted", message="Too many empty answers.")


def again() -> None:
    """Make every message due."""
    Notification.objects.update(next_attempt_at=timezone.now() - timedelta(seconds=1))


def test_a_webhook_gets_the_event_as_signed_json(running: Experiment, hook: Hook, settings: Any) -> None:
    settings.WEBHOOK_SECRET = "s3cret"
    tell(running)
    assert deliver_due() == 1
    headers, body = hook.seen[0]
    assert json.loads(body)["experiment"]["name"] == "Early exit"
    assert headers["x-curtail-event"] == "arm_reverted"
    digest = hmac.new(b"s3cret", body, hashlib.sha256).hexdigest()
    assert headers["x-curtail-signature"] == f"sha256={digest}"


def test_what_was_delivered_is_not_sent_again(running: Experiment, hook: Hook) -> None:
    tell(running)
    assert (deliver_due(), deliver_due(), len(hook.seen)) == (1, 0, 1)


@pytest.mark.parametrize("status", [500, 302])
def test_a_refused_webhook_is_tried_again_later(running: Experiment, hook: Hook, status: int) -> None:
    hook.status = status
    tell(running)
    assert (deliver_due(), deliver_due(), len(hook.seen)) == (0, 0, 1)
    waiting = Notification.objects.get()
    assert waiting.next_attempt_at is not None
    assert waiting.next_attempt_at > timezone.now()
    assert str(status) in waiting.last_error
    hook.status = 200
    again()
    assert deliver_due() == 1


@pytest.mark.parametrize("status", [302, 307])
def test_a_webhook_does_not_follow_to_an_address_that_nobody_configured(
    running: Experiment, hook: Hook, elsewhere: Hook, status: int
) -> None:
    hook.status, hook.location = status, elsewhere.url
    tell(running)
    assert (deliver_due(), len(hook.seen), elsewhere.seen) == (0, 1, [])


def test_a_message_that_never_arrives_is_given_up_in_the_end(running: Experiment, hook: Hook) -> None:
    hook.status = 500
    tell(running)
    for _ in range(MAX_ATTEMPTS + 2):
        deliver_due()
        again()
    assert len(hook.seen) == MAX_ATTEMPTS


def test_an_owner_gets_a_mail(running: Experiment) -> None:
    running.owner_email = "ada@example.org"
    tell(running)
    assert deliver_due() == 1
    assert mail.outbox[0].subject == "[Curtail] short was reverted"
    assert "Too many empty answers." in mail.outbox[0].body
    assert mail.outbox[0].to == ["ada@example.org"]


def test_without_an_address_nobody_is_told(running: Experiment) -> None:
    tell(running)
    assert not Notification.objects.exists()
