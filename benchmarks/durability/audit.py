"""What clients saw, held against what was stored."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.durability.installation import Installation
from benchmarks.durability.load import Seen
from benchmarks.durability.register import ANSWER, BUDGET, THOUGHTS
from experiments import wire

_WORDS = {"full": THOUGHTS, "short": BUDGET}
_MIXED = """
SELECT count(*) FROM (
    SELECT 1 FROM experiments_admission WHERE unit_hash <> ''
    GROUP BY phase_id, unit_hash HAVING count(DISTINCT variant_id) > 1
) AS mixed
"""


@dataclass(frozen=True)
class Audit:
    """What was found.

    Attributes:
        answered: requests that clients saw answered.
        unstored: ids of those without an answered completion.
        unseen: answered completions whose clients saw no answer.
        open_admissions: admissions without an outcome.
        garbled: ids of answers whose text is not what the model says.
        mixed_units: units that two variants have served, by what is stored and by what clients were told.
    """

    answered: int
    unstored: list[str]
    unseen: int
    open_admissions: int
    garbled: list[str]
    mixed_units: int


def settle(installation: Installation, seconds: float) -> None:
    """Returns when the ledger is empty and every admission has an outcome.

    Raises:
        TimeoutError: that is not so after so many seconds.
    """
    deadline = time.monotonic() + seconds
    with installation.redis() as client:
        while client.xlen(wire.LEDGER_STREAM) or (count := open_admissions(installation)):
            if time.monotonic() > deadline:
                left = f"{client.xlen(wire.LEDGER_STREAM)} ledger entries, {count} admissions"
                raise TimeoutError(f"after {seconds:g} s not everything has ended: {left}")
            threading.Event().wait(0.1)


def open_admissions(installation: Installation) -> int:
    """Admissions without an outcome."""
    statement = (
        "SELECT count(*) FROM experiments_admission a LEFT JOIN experiments_completion c ON c.id = a.id "
        "WHERE c.id IS NULL"
    )
    return int(installation.query(statement)[0][0])


def audit(installation: Installation, seen: Iterable[Seen]) -> Audit:
    """Compare; everything has to have settled, and ``seen`` to be all that has ever been asked."""
    everything = list(seen)
    answered = {one.id: one for one in everything if one.outcome == "answered"}
    rows = installation.query("SELECT id FROM experiments_completion WHERE outcome = 'answered'")
    stored = {row[0] for row in rows}
    variants: defaultdict[str, set[str]] = defaultdict(set)
    for one in everything:
        if one.variant:
            variants[one.conversation].add(one.variant)
    mixed = int(installation.query(_MIXED)[0][0]) + sum(len(names) > 1 for names in variants.values())
    return Audit(
        answered=len(answered),
        unstored=sorted(answered.keys() - stored),
        unseen=len(stored - answered.keys()),
        open_admissions=open_admissions(installation),
        garbled=sorted(one.id for one in answered.values() if one.text != expected_text(one.variant)),
        mixed_units=mixed,
    )


def repeated(seen: Iterable[Seen]) -> list[str]:
    """Ids that more than one answer had."""
    counts = Counter(one.id for one in seen if one.outcome == "answered")
    return [name for name, count in counts.items() if count > 1]


def expected_text(variant: str) -> str:
    """Thinking and answer of a variant."""
    thinking = "".join(f"thought{n} " for n in range(_WORDS[variant]))
    if variant == "full":
        thinking = thinking.removesuffix(" ")
    return f"{thinking}|{ANSWER}"
