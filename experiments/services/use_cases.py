"""What a use case holds out of experiments, and which policy is in force in which context."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from django.db import transaction

from experiments.models import Experiment, UseCase
from experiments.services import audit
from experiments.services.changes import announce_change
from experiments.services.errors import InvalidInput
from experiments.services.registry import check_capability, valid_policy

MAX_CONTEXTS = 20
# A bucket is the smallest share; with all of them no unit would be left for experiments.
LEAST_HOLDOUT, MOST_HOLDOUT = 0.0001, 0.5
_CONTEXT = re.compile(r"[-.\w]{1,40}", re.ASCII)


@transaction.atomic
def change_use_case(actor: str, use_case: UseCase, changes: Mapping[str, Any]) -> UseCase:
    """Change `holdout` or `policies_by_context` of a use case.

    Raises:
        InvalidInput: a name is unknown or a value is not allowed; nothing is changed.
    """
    # What starts an experiment holds this row too.
    row = UseCase.objects.select_for_update(no_key=True).get(pk=use_case.pk)
    if unknown := sorted(set(changes) - set(_CHECKS)):
        raise InvalidInput(f"{unknown[0]} must be one of {', '.join(sorted(_CHECKS))}", unknown[0])
    before = {name: getattr(row, name) for name in changes}
    after = {name: _CHECKS[name](row, value) for name, value in changes.items()}
    if before == after:
        return row
    for name, value in after.items():
        setattr(row, name, value)
    # Kept from then on: raising the share later must not let go of a unit that is held out.
    row.holdout_salt = row.holdout_salt or secrets.token_hex(8)
    row.save(update_fields=[*after, "holdout_salt"])
    audit.record(actor, "change use case", row, before=before, after=after)
    announce_change()
    return row


def _holdout(use_case: UseCase, value: object) -> float:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    if not known or not (value == 0 or LEAST_HOLDOUT <= value <= MOST_HOLDOUT):  # type: ignore[operator]
        raise InvalidInput(
            f"holdout must be 0 or a share from {LEAST_HOLDOUT} to {MOST_HOLDOUT}, got {value!r}", "holdout"
        )
    running = Experiment.objects.filter(use_case=use_case, state=Experiment.State.RUNNING).first()
    if running is not None and value != use_case.holdout:
        raise InvalidInput(
            f"holdout can't change while experiment {running.name!r} is running: its units would leave or enter it",
            "holdout",
        )
    return float(value)  # type: ignore[arg-type]


def _policies_by_context(use_case: UseCase, value: object) -> dict[str, Any]:
    if not isinstance(value, dict) or len(value) > MAX_CONTEXTS:
        raise InvalidInput(
            f"policies_by_context must be an object of at most {MAX_CONTEXTS} contexts, got {value!r}",
            "policies_by_context",
        )
    checked = {}
    for context, spec in value.items():
        field = f"policies_by_context.{context}"
        if not _CONTEXT.fullmatch(str(context)):
            raise InvalidInput(
                f"contexts must be 1 to 40 letters, digits, . - and _, got {context!r}", "policies_by_context"
            )
        check_capability(use_case.checkpoint, spec, field)
        checked[context] = valid_policy(spec, field)
    return checked


_CHECKS: Mapping[str, Callable[[UseCase, object], Any]] = {
    "holdout": _holdout,
    "policies_by_context": _policies_by_context,
}
