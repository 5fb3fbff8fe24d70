"""Registering what is served: model profiles, checkpoints, use cases and API keys."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Model
from django.utils import timezone

from experiments.capabilities import ENGINES, EngineTraits, capability
from experiments.grading import check_answer_pattern, grader_by_name, grader_from_spec
from experiments.models import ApiKey, Checkpoint, Experiment, ModelProfile, UseCase
from experiments.policies import policy_from_spec, policy_to_spec
from experiments.remote_capabilities import refusal
from experiments.remote_server import SERVER_FILE, RemoteServer, parse_server
from experiments.services import audit
from experiments.services.changes import announce_change
from experiments.services.errors import InvalidInput
from experiments.services.secrets import api_key_digest

_KEY_PREFIX = "ck_"
# The columns of a model profile that decide what is correct.
_GRADING = ("grader", "grader_options", "answer_pattern")
MAX_DEADLINE_SECONDS = 86_400
_Row = TypeVar("_Row", bound=Model)


@transaction.atomic
def register_model(actor: str, **fields: Any) -> ModelProfile:
    """Create a model profile, or change the one of that name.

    Raises:
        InvalidInput: a field is missing or out of bounds.
    """
    name = fields.pop("name")
    known = ModelProfile.objects.filter(name=name).first() or ModelProfile()
    with _invalid("grader"):
        grader = grader_by_name(fields.get("grader", known.grader))
    if "grader" in fields or "grader_options" in fields:
        with _invalid("grader_options"):
            grader = grader_from_spec(grader.name, fields.get("grader_options", {}))
        # Both at once, written out: options are those of one grader.
        fields |= {"grader": grader.name, "grader_options": grader.options}
    with _invalid("answer_pattern"):
        check_answer_pattern(fields.get("answer_pattern", ""))
    _check_not_running(known, fields)
    return _save(actor, "register model", ModelProfile, {"name": name}, fields)


@contextmanager
def _invalid(field: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise InvalidInput(str(error), field) from error


def _check_not_running(model: ModelProfile, fields: Mapping[str, Any]) -> None:
    """What answers are graded by must not change within a phase: its labels could not be counted together."""
    changed = [field for field in _GRADING if field in fields and getattr(model, field) != fields[field]]
    if model.pk is None or not changed:
        return
    running = Experiment.objects.filter(state=Experiment.State.RUNNING, variants__checkpoint__model=model).first()
    if running is not None:
        raise InvalidInput(
            f"{changed[0]} can't change while experiment {running.name!r} is running; "
            "pause it, change the model and resume: that opens a new phase",
            changed[0],
        )


@transaction.atomic
def register_checkpoint(actor: str, model: ModelProfile, name: str, path: str, step: int | None = None) -> Checkpoint:
    """Create a checkpoint of a model, or change the one of that name."""
    return _save(actor, "register checkpoint", Checkpoint, {"model": model, "name": name}, {"path": path, "step": step})


@transaction.atomic
def register_use_case(actor: str, slug: str, *, policy: object, **fields: Any) -> UseCase:
    """Create a use case, or change the one of that slug.

    Args:
        actor: who does it.
        slug: its name in requests.
        policy: JSON form of the policy in force.
        fields: the other columns (name, checkpoint, margin, min_saving, deadline_seconds, retention).

    Raises:
        InvalidInput: a field is out of bounds.
    """
    for name, low, high in (("margin", 0.0, 1.0), ("min_saving", -1.0, 1.0)):
        check_between(name, fields.get(name), low, high)
    deadline = fields.get("deadline_seconds")
    if deadline is not None and not 0 < deadline <= MAX_DEADLINE_SECONDS:
        raise InvalidInput(
            f"deadline_seconds must be above 0 and at most {MAX_DEADLINE_SECONDS}, got {deadline!r}",
            "deadline_seconds",
        )
    fields["policy"] = valid_policy(policy)
    if "checkpoint" in fields:
        check_capability(fields["checkpoint"], policy)
        known = UseCase.objects.filter(slug=slug).first()
        for context, spec in (known.policies_by_context if known else {}).items():
            check_capability(fields["checkpoint"], spec, f"policies_by_context.{context}")
    return _save(actor, "register use case", UseCase, {"slug": slug}, fields)


@transaction.atomic
def change_retention(actor: str, use_case: UseCase, retention: str) -> UseCase:
    """What becomes of the texts of requests from now on; those that are stored stay as they are.

    Raises:
        InvalidInput: an unknown setting.
    """
    return _save(actor, "change retention", UseCase, {"pk": use_case.pk}, {"retention": retention})


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A new API key; ``token`` is shown once and stored nowhere."""

    key: ApiKey
    token: str


@transaction.atomic
def issue_api_key(
    actor: str,
    name: str,
    use_case: UseCase,
    scopes: Sequence[str],
    *,
    further: Sequence[UseCase] = (),
    any_use_case: bool = False,
) -> IssuedKey:
    """Make an API key whose requests go to ``use_case`` unless they name another.

    Args:
        actor: who does it.
        name: what it is for.
        use_case: its own; labels and management are of this one alone.
        scopes: what it may do.
        further: the use cases that its requests may name besides.
        any_use_case: whether they may name any.

    Raises:
        InvalidInput: an unknown scope, or none; a name that is empty or too long.
    """
    known = set(ApiKey.Scope.values)
    longest = ApiKey._meta.get_field("name").max_length or 0
    if not 1 <= len(name) <= longest:
        raise InvalidInput(f"name must have from 1 to {longest} characters, got {len(name)}", "name")
    if not scopes or not set(scopes) <= known:
        raise InvalidInput(f"scopes must be some of {', '.join(sorted(known))}, got {list(scopes)}", "scopes")
    token = _KEY_PREFIX + secrets.token_urlsafe(32)
    key = ApiKey.objects.create(
        name=name,
        prefix=token[:8],
        digest=api_key_digest(token),
        use_case=use_case,
        scopes=sorted(set(scopes)),
        any_use_case=any_use_case,
    )
    key.use_cases.set(further)
    reach = {"use_cases": sorted({use_case.slug, *(row.slug for row in further)}), "any_use_case": any_use_case}
    audit.record(actor, "issue API key", key, after={"name": name, "scopes": key.scopes} | reach)
    announce_change()
    return IssuedKey(key, token)


@transaction.atomic
def revoke_api_key(actor: str, key: ApiKey) -> None:
    """Make a key worthless, at once and for good."""
    changed = ApiKey.objects.filter(pk=key.pk, revoked_at=None).update(revoked_at=timezone.now())
    if changed:
        audit.record(actor, "revoke API key", key, before={"revoked": False}, after={"revoked": True})
        announce_change()


def valid_policy(spec: object, field: str = "policy") -> dict[str, Any]:
    """The JSON form of a policy with every parameter written out; InvalidInput names what is wrong."""
    try:
        return policy_to_spec(policy_from_spec(spec))
    except ValueError as error:
        raise InvalidInput(str(error), field) from error


def check_capability(checkpoint: Checkpoint, spec: object, field: str = "policy") -> EngineTraits:
    """The traits of a checkpoint's engine; InvalidInput where it can't apply the policy."""
    name = checkpoint.model.engine
    traits = ENGINES.get(name)
    if traits is None:
        raise InvalidInput(f"engine must be one of {', '.join(ENGINES)}, got {name!r}", "engine")
    policy = policy_from_spec(valid_policy(spec, field))
    able = capability(traits, policy)
    if not able.supported:
        raise InvalidInput(able.reason, field)
    if name == ModelProfile.Engine.OPENAI:
        reason = refusal(read_server(str(Path(settings.BASE_DIR) / checkpoint.path)), policy)
        if reason is not None:
            raise InvalidInput(reason, field)
    return traits


def read_server(folder: str) -> RemoteServer:
    """The server that a checkpoint's folder describes.

    Raises:
        InvalidInput: its file is missing or unusable.
    """
    try:
        return parse_server((Path(folder) / SERVER_FILE).read_text())
    except (OSError, ValueError) as error:
        raise InvalidInput(f"cannot read {SERVER_FILE} in {folder!r}: {error}", "path") from error


def check_between(name: str, value: float | None, low: float, high: float) -> None:
    """InvalidInput unless ``low < value < high`` (None passes: the default holds)."""
    if value is not None and not low < value < high:
        raise InvalidInput(f"{name} must be a fraction between {low:g} and {high:g}, got {value:g}", name)


def _save(actor: str, action: str, table: type[_Row], identity: Mapping[str, Any], fields: Mapping[str, Any]) -> _Row:
    row = table._default_manager.filter(**identity).first() or table(**identity)
    before = _plain(row, fields) if row.pk else None
    for name, value in fields.items():
        # Django's bounds let NaN pass: it is neither above nor below them.
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidInput(f"{name} must be a finite number, got {value!r}", name)
        setattr(row, name, value)
    try:
        row.full_clean()
    except ValidationError as error:
        field, messages = next(iter(error.message_dict.items()))
        raise InvalidInput(f"{field}: {' '.join(messages)} (got {getattr(row, field, None)!r})", field) from error
    row.save()
    after = _plain(row, fields)
    if before != after:
        audit.record(actor, action, row, before=before, after=after)
        announce_change()
    return row


def _plain(row: Model, names: Mapping[str, Any]) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in names}
    return {name: value.pk if isinstance(value, Model) else value for name, value in values.items()}
