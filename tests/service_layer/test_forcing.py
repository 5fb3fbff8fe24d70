"""Signed headers that force a variant."""

from __future__ import annotations

import time
from typing import Any

import pytest

from experiments.models import AuditEvent, Experiment
from experiments.services import experiments as service
from experiments.services.errors import InvalidInput, WrongState
from experiments.services.forcing import BadForm, ForcedVariant, NotSigned, issue_header, read_header


def test_an_issued_header_is_read_until_it_expires(running: Experiment) -> None:
    issued = issue_header("ada", running, "short", 60)
    assert read_header(issued.value, issued.expires - 1) == ForcedVariant(running.pk, "short")
    with pytest.raises(NotSigned, match="must be used before it expires"):
        read_header(issued.value, issued.expires)


def test_issuing_is_an_audit_event(running: Experiment) -> None:
    issued = issue_header("ada", running, "short", 60)
    event = AuditEvent.objects.get(action="let force a variant")
    assert (event.actor, event.after) == ("ada", {"variant": "short", "expires": issued.expires})


@pytest.mark.parametrize("part", range(4))
def test_a_header_with_any_part_changed_is_refused(running: Experiment, part: int) -> None:
    parts = issue_header("ada", running, "short", 60).value.split(":")
    parts[part] = ["999", "full", "999999999999", "0" * 64][part]
    with pytest.raises(NotSigned, match="has a wrong signature"):
        read_header(":".join(parts), time.time())


def test_a_signature_depends_on_the_installations_secret(running: Experiment, settings: Any) -> None:
    issued = issue_header("ada", running, "short", 60)
    settings.SECRET_KEY = "another secret key of this test, long enough"
    with pytest.raises(NotSigned, match="has a wrong signature"):
        read_header(issued.value, time.time())


@pytest.mark.parametrize("value", ["", "1:short", "1:short:9:xyz", "x:short:9:" + "0" * 64, "1:a b:9:" + "0" * 64])
def test_another_form_is_refused(value: str) -> None:
    with pytest.raises(BadForm, match="must be <experiment id>:<variant key>:<expires>:<signature>, got"):
        read_header(value, 0.0)


@pytest.mark.parametrize(
    ("variant", "seconds", "message"),
    [
        ("other", 60, "variant must be one of full, short, got 'other'"),
        ("short", 0, "seconds must be from 1 to 2592000, got 0"),
        ("short", 2_592_001, "seconds must be from 1 to 2592000, got 2592001"),
    ],
)
def test_what_cannot_be_forced_gets_no_header(running: Experiment, variant: str, seconds: int, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        issue_header("ada", running, variant, seconds)


def test_an_ended_experiment_gets_no_header(running: Experiment) -> None:
    with pytest.raises(WrongState, match="is stopped; only one that runs can serve a variant"):
        issue_header("ada", service.stop("ada", running, "reverted"), "short", 60)
