"""/api/v1/use-case: the use case of the calling key: its holdout, policies by context, and what is kept of texts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from django.db import transaction
from django.http import HttpRequest
from ninja import Router, Schema
from pydantic import ConfigDict, Field, WithJsonSchema

from experiments.api.auth import KeyAuth, caller
from experiments.models import UseCase
from experiments.policies import policies_schema
from experiments.services.registry import change_retention
from experiments.services.use_cases import MOST_HOLDOUT, change_use_case

router = Router(tags=["use case"], auth=KeyAuth("manage"))
Retention = Literal["keep", "hash", "drop"]
Policy = Annotated[dict[str, Any], WithJsonSchema(policies_schema())]


class UseCaseOut(Schema):
    """A use case and what is in force."""

    slug: str
    name: str
    policy: Policy
    policies_by_context: dict[str, Policy]
    holdout: float
    margin: float
    min_saving: float
    deadline_seconds: float
    retention: Retention


class UseCaseIn(Schema):
    """What may be changed; what is left out stays as it is."""

    model_config = ConfigDict(extra="forbid")

    holdout: float = Field(default=0.0, description=f"Share held out of experiments: 0, or up to {MOST_HOLDOUT}.")
    policies_by_context: dict[str, Policy] = Field(default_factory=dict)
    retention: Retention = Field(default="keep", description="What becomes of texts from now on.")


@router.get("", response=UseCaseOut)
def read_use_case(request: HttpRequest) -> UseCase:
    """The calling key's use case."""
    return caller(request).use_case


@router.patch("", response=UseCaseOut)
def patch_use_case(request: HttpRequest, changes: UseCaseIn) -> UseCase:
    """Change the holdout (while no experiment runs), the policies in force by context, or what becomes of texts."""
    key, wanted = caller(request), changes.model_dump(exclude_unset=True)
    retention = wanted.pop("retention", None)
    with transaction.atomic():
        use_case = change_use_case(f"key {key.pk}", key.use_case, wanted)
        return use_case if retention is None else change_retention(f"key {key.pk}", use_case, retention)
