"""/api/v1/use-case: the use case of the calling key, its holdout and its policies by context."""

from __future__ import annotations

from typing import Annotated, Any

from django.http import HttpRequest
from ninja import Router, Schema
from pydantic import ConfigDict, Field, WithJsonSchema

from experiments.api.auth import KeyAuth
from experiments.models import ApiKey, UseCase
from experiments.policies import policies_schema
from experiments.services.use_cases import MOST_HOLDOUT, change_use_case

router = Router(tags=["use case"], auth=KeyAuth("manage"))
Policy = Annotated[dict[str, Any], WithJsonSchema(policies_schema())]


class UseCaseOut(Schema):
    """A use case and what is in force."""

    slug: str
    name: str
    policy: Policy
    policies_by_context: dict[str, Policy]
    holdout: float


class UseCaseIn(Schema):
    """What may be changed; what is left out stays as it is."""

    model_config = ConfigDict(extra="forbid")

    holdout: float = Field(default=0.0, description=f"Share held out of experiments: 0, or up to {MOST_HOLDOUT}.")
    policies_by_context: dict[str, Policy] = Field(default_factory=dict)


@router.get("", response=UseCaseOut)
def read_use_case(request: HttpRequest) -> UseCase:
    """The calling key's use case."""
    return _key(request).use_case


@router.patch("", response=UseCaseOut)
def patch_use_case(request: HttpRequest, changes: UseCaseIn) -> UseCase:
    """Change the holdout (while no experiment runs) or the policies in force by context."""
    key = _key(request)
    return change_use_case(f"key {key.pk}", key.use_case, changes.model_dump(exclude_unset=True))


def _key(request: HttpRequest) -> ApiKey:
    key: ApiKey = request.auth  # type: ignore[attr-defined]
    return key
