"""/api/v1/use-case: the use case of the calling key, and what is kept of its texts."""

from __future__ import annotations

from typing import Literal

from django.http import HttpRequest
from ninja import Router, Schema
from pydantic import ConfigDict

from experiments.api.auth import KeyAuth, caller
from experiments.models import UseCase
from experiments.services.registry import change_retention

router = Router(tags=["use case"], auth=KeyAuth("manage"))
Retention = Literal["keep", "hash", "drop"]


class UseCaseOut(Schema):
    """A use case."""

    slug: str
    name: str
    margin: float
    min_saving: float
    deadline_seconds: float
    retention: Retention


class UseCaseIn(Schema):
    """What can be changed of it."""

    model_config = ConfigDict(extra="forbid")

    retention: Retention


@router.get("", response=UseCaseOut)
def read_use_case(request: HttpRequest) -> UseCase:
    """The use case of the key."""
    return caller(request).use_case


@router.patch("", response=UseCaseOut)
def change_use_case(request: HttpRequest, changes: UseCaseIn) -> UseCase:
    """Keep, hash or drop the texts of requests from now on; those that are stored stay as they are."""
    calling = caller(request)
    return change_retention(f"key {calling.pk}", calling.use_case, changes.retention)
