"""Erasing the texts of a unit: counts and verdicts stay, words go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import transaction
from django.db.models import Exists, OuterRef, Q
from django.utils import timezone

from experiments import wire
from experiments.models import Admission, Completion, Erasure, Label, ShadowRun, UseCase
from experiments.services import audit
from experiments.services.errors import InvalidInput
from experiments.services.private_rows import BATCH, WAITING, forget_references, settle
from experiments.services.recounting import hold_grading_lock, mark_changed
from experiments.services.redis_clients import sync_redis
from experiments.services.sealing import unseal
from experiments.services.secrets import unit_digest

MAX_UNIT_LENGTH = 512


@dataclass(frozen=True, slots=True)
class Erased:
    """How many rows lost their texts, and how many labels and dead letters are gone; a second time all are 0."""

    completions: int
    labels: int
    shadow_runs: int
    dead_letters: int


def erase_unit(actor: str, use_case: UseCase, unit: str) -> Erased:
    """Erase the texts of a user, a conversation or a request in a use case, for good.

    What is still on its way of requests admitted until now is erased when it arrives.

    Raises:
        InvalidInput: the unit's id is empty or too long.
    """
    if not 1 <= len(unit) <= MAX_UNIT_LENGTH:
        raise InvalidInput(f"unit must have from 1 to {MAX_UNIT_LENGTH} characters, got {len(unit)}", "unit")
    if "\x00" in unit:
        raise InvalidInput("unit must not hold the character NUL (U+0000)", "unit")
    digest = unit_digest(unit)
    with transaction.atomic():
        hold_grading_lock()
        Erasure.objects.update_or_create(use_case=use_case, digest=digest, defaults={"admitted_until": timezone.now()})
        of_unit = Q(unit_hash=digest) | Q(user_hash=digest) | Q(conversation_hash=digest) | Q(pk=unit)
        rows = Admission.objects.filter(of_unit, use_case=use_case)
        ids = list(rows.order_by("pk").values_list("pk", flat=True))
        erased = _erase_rows([pk for pk in ids if pk not in _erased(ids)])
        mark_changed(ids)
        counts = dict(zip(("completions", "labels", "shadow_runs"), erased, strict=True))
        audit.record(actor, "erase unit", use_case, after=counts)
    # After the commit: what is taken off a stream does not come back with a rollback.
    _drop_queued_runs(ids)
    return Erased(*erased, _drop_dead_letters(set(ids), use_case.pk, digest, unit))


def erase_late(admission_ids: Sequence[str]) -> None:
    """Erase what came in of units that were erased before. Call it under the grading lock, before labels are made."""
    if not admission_ids or not Erasure.objects.exists():
        return
    digests = {unit_digest(pk): pk for pk in admission_ids}
    requests = Erasure.objects.filter(digest__in=digests).values_list("digest", flat=True)
    of_unit = (
        Q(digest=OuterRef("unit_hash")) | Q(digest=OuterRef("user_hash")) | Q(digest=OuterRef("conversation_hash"))
    )
    erasures = Erasure.objects.filter(
        of_unit, use_case=OuterRef("use_case"), admitted_until__gte=OuterRef("admitted_at")
    )
    late = Admission.objects.filter(
        Q(Exists(erasures)) | Q(pk__in=[digests[digest] for digest in requests]), pk__in=admission_ids
    )
    _erase_rows(list(late.values_list("pk", flat=True)))


def _erased(ids: Sequence[str]) -> set[str]:
    """Those that hold no text any more."""
    gone = Admission.objects.filter(pk__in=ids, retention=wire.DROP, reference=None)
    bare = Completion.objects.filter(retention=wire.DROP, text="", thinking="", answer="", messages__isnull=True)
    return set(gone.filter(pk__in=bare.filter(pk__in=ids).values("pk")).values_list("pk", flat=True))


def _erase_rows(ids: Sequence[str]) -> tuple[int, int, int]:
    """Completions and shadow runs that lost texts, and labels that will never be graded."""
    if not ids:
        return 0, 0, 0
    ended = Completion.objects.filter(pk__in=ids).values("pk")
    waiting, _ = Label.objects.filter(WAITING, admission_id__in=ended).delete()
    forget_references(ids)
    Admission.objects.filter(pk__in=ids).update(retention=wire.DROP, shadowed=False)
    runs = ShadowRun.objects.filter(admission_id__in=ids)
    queued = runs.filter(state=ShadowRun.State.QUEUED)
    queued.update(state=ShadowRun.State.FAILED, error="erased", completed_at=timezone.now())
    stripped = runs.exclude(answer="", awaits_grading=False).update(answer="", awaits_grading=False)
    runs.exclude(error__in=("", "erased")).update(error="erased")
    count = Completion.objects.filter(pk__in=ids).count()
    for start in range(0, len(ids), BATCH):
        settle(ids[start : start + BATCH])
    return count, waiting, stripped


def _drop_queued_runs(ids: Sequence[str]) -> None:
    """Take the unit's shadow runs, which carry its texts, off their streams."""
    found = ShadowRun.objects.filter(admission_id__in=ids).values_list("pk", "admission__checkpoint_id")
    runs = dict(found)
    for checkpoint in set(runs.values()):
        stream = wire.shadow_stream(checkpoint)
        mine = [entry for entry, fields in _entries(stream) if _shadow_id(fields) in runs]
        if mine:
            sync_redis().xdel(stream, *mine)


def _shadow_id(fields: dict[bytes, bytes]) -> str:
    try:
        return wire.ShadowRequest.decode(fields[wire.PAYLOAD]).id
    except (ValueError, TypeError, KeyError):
        return ""


def _drop_dead_letters(ids: set[str], use_case_id: int, digest: str, unit: str) -> int:
    """Remove records of the unit that could not be stored; how many."""
    letters = [(entry, _record(fields)) for entry, fields in _entries(wire.LEDGER_DEAD_STREAM)]
    admitted = [r for _, r in letters if isinstance(r, wire.AdmissionRecord) and r.use_case_id == use_case_id]
    ids |= {r.id for r in admitted if digest in (r.unit_hash, r.user_hash, r.conversation_hash) or r.id == unit}
    runs = set(ShadowRun.objects.filter(admission_id__in=ids).values_list("pk", flat=True))
    mine = [entry for entry, record in letters if record is not None and record.id in ids | runs]
    return int(sync_redis().xdel(wire.LEDGER_DEAD_STREAM, *mine)) if mine else 0


_Record = wire.AdmissionRecord | wire.CompletionRecord | wire.ShadowRecord
_KINDS: dict[bytes, type[_Record]] = {
    b"admission": wire.AdmissionRecord,
    b"completion": wire.CompletionRecord,
    b"shadow": wire.ShadowRecord,
}


def _record(fields: dict[bytes, bytes]) -> _Record | None:
    try:
        return _KINDS[fields[wire.KIND]].decode(unseal(fields[wire.PAYLOAD]))
    except (ValueError, TypeError, KeyError):
        return None


def _entries(stream: str) -> Iterator[tuple[bytes, dict[bytes, bytes]]]:
    client: Any = sync_redis()
    start = "-"
    while page := client.xrange(stream, min=start, count=BATCH):
        yield from page
        start = f"({page[-1][0].decode()}"
