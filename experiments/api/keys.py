"""/api/v1/keys: the API keys of the calling key's own use case."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from ninja import Router, Schema
from ninja.responses import Status
from pydantic import ConfigDict, Field

from experiments.api.auth import KeyAuth, caller
from experiments.models import ApiKey
from experiments.services.registry import issue_api_key, revoke_api_key

router = Router(tags=["keys"], auth=KeyAuth("manage"))


class KeyIn(Schema):
    """A key to be made."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=120)
    scopes: list[Literal["serve", "label", "manage"]] = Field(min_length=1)


class KeyOut(Schema):
    """A key, as far as it is stored."""

    id: int
    name: str
    prefix: str
    scopes: list[str]
    created_at: datetime
    revoked_at: datetime | None


class IssuedKeyOut(KeyOut):
    """A new key with its token, which is shown this once."""

    token: str


@router.get("", response=list[KeyOut])
def list_keys(request: HttpRequest) -> list[ApiKey]:
    """All keys of the use case, revoked ones too, the newest first."""
    return list(ApiKey.objects.filter(use_case_id=caller(request).use_case_id).order_by("-pk"))


@router.post("", response={201: IssuedKeyOut})
def create_key(request: HttpRequest, wanted: KeyIn) -> Status[IssuedKeyOut]:
    """Make a key for the use case."""
    calling = caller(request)
    issued = issue_api_key(f"key {calling.pk}", wanted.name, calling.use_case, sorted(set(wanted.scopes)))
    stored = KeyOut.from_orm(issued.key).model_dump()
    return Status(201, IssuedKeyOut(token=issued.token, **stored))


@router.delete("/{int:key_id}", response={204: None})
def delete_key(request: HttpRequest, key_id: int) -> Status[None]:
    """Revoke a key, at once and for good; a second time changes nothing."""
    calling = caller(request)
    key = get_object_or_404(ApiKey, pk=key_id, use_case_id=calling.use_case_id)
    revoke_api_key(f"key {calling.pk}", key)
    return Status(204, None)
