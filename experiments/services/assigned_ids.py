"""Ids of assignments that say whose they are.

A completion may be posted before its assignment has come from the ledger stream into the database. So an id carries
what has to be known of it, and a tag that only this installation can make: nobody can post a completion for a request
of another use case, or for one that a gateway serves.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from dataclasses import dataclass

from experiments.services.secrets import assignment_tag

PREFIX = "asgn-"
# Milliseconds since the epoch, the checkpoint and chance, in bytes.
_TIME, _CHECKPOINT, _CHANCE = 6, 5, 7
_BODY = 24  # characters of base64


@dataclass(frozen=True, slots=True)
class AssignedId:
    """What an id says of its assignment.

    Attributes:
        admitted_at: seconds since the epoch, to the millisecond before.
    """

    checkpoint_id: int
    admitted_at: float


def make_id(use_case_id: int, checkpoint_id: int, admitted_at: float) -> str:
    """A new id, of 45 characters."""
    body = (
        int(admitted_at * 1000).to_bytes(_TIME, "big")
        + checkpoint_id.to_bytes(_CHECKPOINT, "big")
        + secrets.token_bytes(_CHANCE)
    )
    text = base64.urlsafe_b64encode(body).decode()
    return f"{PREFIX}{text}{assignment_tag(f'{use_case_id}:{text}')}"


def read_id(use_case_id: int, text: str) -> AssignedId | None:
    """What the id says; None when it is no id of an assignment of this use case."""
    if not text.startswith(PREFIX) or not text.isascii():
        return None
    body, tag = text[len(PREFIX) :][:_BODY], text[len(PREFIX) + _BODY :]
    if not hmac.compare_digest(tag, assignment_tag(f"{use_case_id}:{body}")):
        return None
    try:
        data = base64.b64decode(body, altchars=b"-_", validate=True)
    except binascii.Error:
        return None
    time, checkpoint = data[:_TIME], data[_TIME : _TIME + _CHECKPOINT]
    return AssignedId(int.from_bytes(checkpoint, "big"), int.from_bytes(time, "big") / 1000)
