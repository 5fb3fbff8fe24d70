"""Assigning units to variants for whoever serves them elsewhere; the exposure is recorded as a gateway records it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from experiments.models import Checkpoint
from experiments.routing import Assignment, Route, assign
from experiments.services.admissions import record_admission
from experiments.services.assigned_ids import make_id
from experiments.services.errors import InvalidInput
from experiments.services.redis_clients import sync_redis
from experiments.services.retention import ledger_entry
from experiments.services.routing_view import routing_view

MAX_DEADLINE_SECONDS = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an assignment is asked for.

    Attributes:
        units: id of the conversation, user and request, by unit type; None: not given.
        reference: the reference answer, or None.
        deadline_seconds: time within which its completion will be posted; None: the use case's.
    """

    units: Mapping[str, str | None]
    segment: str = ""
    reference: str | None = None
    prompt_characters: int = 0
    deadline_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Assigned:
    """An assignment that is in the ledger. Times are seconds since the epoch."""

    id: str
    use_case: str
    assignment: Assignment
    checkpoint: str
    admitted_at: float
    deadline_at: float


def assign_elsewhere(use_case: str, wanted: Wanted) -> Assigned:
    """Assign a unit and record its exposure.

    Raises:
        InvalidInput: the deadline is out of bounds.
        redis.exceptions.RedisError: it could not be recorded, as far as can be told.
    """
    routing = routing_view.current()
    route = routing.routes[use_case]
    seconds = _deadline(route, wanted.deadline_seconds)
    now = time.time()
    # The checkpoint is in the id, so it comes after the decision; where the request is the unit, chance names it.
    units = dict(wanted.units)
    units["request"] = units.get("request") or make_id(route.use_case_id, 0, now)
    assignment = assign(route, units, routing_view.unwatched(route))
    request_id = make_id(route.use_case_id, assignment.arm.checkpoint_id, now)
    record = record_admission(
        request_id,
        route,
        assignment,
        admitted_at=now,
        deadline_at=now + seconds,
        reference=wanted.reference,
        segment=wanted.segment,
        prompt_characters=wanted.prompt_characters,
        sampling={},
        user=wanted.units.get("user"),
        conversation=wanted.units.get("conversation"),
    )
    stream, entry = ledger_entry(record)
    fields: Any = entry
    sync_redis().xadd(stream, fields)
    checkpoint = _checkpoint_name(routing.version, assignment.arm.checkpoint_id)
    return Assigned(request_id, route.slug, assignment, checkpoint, now, now + seconds)


def _deadline(route: Route, seconds: float | None) -> float:
    if seconds is None:
        return route.deadline_seconds
    if not 0 < seconds <= MAX_DEADLINE_SECONDS:
        raise InvalidInput(
            f"deadline_seconds must be above 0 and at most {MAX_DEADLINE_SECONDS:g}, got {seconds!r}",
            "deadline_seconds",
        )
    return seconds


@lru_cache(maxsize=1024)
def _checkpoint_name(version: int, checkpoint_id: int) -> str:
    """``model/checkpoint``, as of a configuration version."""
    return str(Checkpoint.objects.select_related("model").get(pk=checkpoint_id))
