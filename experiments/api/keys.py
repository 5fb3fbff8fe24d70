"""/api/v1/keys: the API keys of the calling key's own use case."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from ninja import Router, Schema
from ninja.responses import Status
from pydantic import ConfigDict, Field

from experiments.api.auth import KeyAuth, caller
from experiments.models import ApiKey, UseCase
from experiments.services.errors import InvalidInput
from experiments.services.registry import issue_api_key, revoke_api_key
from experiments.services.text import Text

router = Router(tags=["keys"], auth=KeyAuth("manage"))


class KeyIn(Schema):
    """A key to be made."""

    model_config = ConfigDict(extra="forbid")

    name: Text = Field(min_length=1, max_length=120)
    scopes: list[Literal["serve", "label", "manage"]] = Field(min_length=1)
    use_cases: list[str] = Field(default_factory=list, description="Further use cases that its requests may name.")
    any_use_case: bool = Field(default=False, description="Whether its requests may name any use case.")


class KeyOut(Schema):
    """A key, as far as it is stored."""

    id: int
    name: str
    prefix: str
    scopes: list[str]
    use_cases: list[str]
    any_use_case: bool
    created_at: datetime
    revoked_at: datetime | None


class IssuedKeyOut(KeyOut):
    """A new key with its token, which is shown this once."""

    token: str


@router.get("", response=list[KeyOut])
def list_keys(request: HttpRequest) -> list[KeyOut]:
    """All keys of the use case, revoked ones too, the newest first."""
    keys = ApiKey.objects.filter(use_case_id=caller(request).use_case_id).prefetch_related("use_cases")
    return [KeyOut(**_stored(key)) for key in keys.order_by("-pk")]


@router.post("", response={201: IssuedKeyOut})
def create_key(request: HttpRequest, wanted: KeyIn) -> Status[IssuedKeyOut]:
    """Make a key for the use case."""
    calling = caller(request)
    issued = issue_api_key(
        f"key {calling.pk}",
        wanted.name,
        calling.use_case,
        sorted(set(wanted.scopes)),
        further=_within_reach(calling, wanted),
        any_use_case=wanted.any_use_case,
    )
    return Status(201, IssuedKeyOut(token=issued.token, **_stored(issued.key)))


@router.delete("/{key_id}", response={204: None})
def delete_key(request: HttpRequest, key_id: int) -> Status[None]:
    """Revoke a key, at once and for good; a second time changes nothing."""
    calling = caller(request)
    key = get_object_or_404(ApiKey, pk=key_id, use_case_id=calling.use_case_id)
    revoke_api_key(f"key {calling.pk}", key)
    return Status(204, None)


def _stored(key: ApiKey) -> dict[str, Any]:
    names = ("id", "name", "prefix", "scopes", "any_use_case", "created_at", "revoked_at")
    plain = {name: getattr(key, name) for name in names}
    return plain | {"use_cases": sorted(use_case.slug for use_case in key.use_cases.all())}


def _within_reach(calling: ApiKey, wanted: KeyIn) -> list[UseCase]:
    """The further use cases; a key can't make one that reaches further than itself."""
    if wanted.any_use_case and not calling.any_use_case:
        raise InvalidInput("any_use_case must be false: the calling key may not name any use case", "any_use_case")
    allowed = UseCase.objects.all()
    if not calling.any_use_case:
        allowed = allowed.filter(pk__in=[calling.use_case_id, *calling.use_cases.values_list("pk", flat=True)])
    known = {use_case.slug: use_case for use_case in allowed}
    if unknown := sorted(set(wanted.use_cases) - set(known)):
        reached = ", ".join(sorted(known))
        raise InvalidInput(
            f"use_cases must be some that the calling key may name, {reached}, got {unknown[0]!r}", "use_cases"
        )
    return [known[slug] for slug in sorted(set(wanted.use_cases))]
