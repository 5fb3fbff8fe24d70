"""POST /api/v1/erasures: the texts of one unit, gone for good."""

from __future__ import annotations

from django.http import HttpRequest
from ninja import Router, Schema
from pydantic import ConfigDict, Field

from experiments.api.auth import KeyAuth, caller
from experiments.services.erasure import MAX_UNIT_LENGTH, Erased, erase_unit

router = Router(tags=["erasures"], auth=KeyAuth("manage"))


class ErasureIn(Schema):
    """Whose texts: the id of a user, a conversation or a request, as requests name it."""

    model_config = ConfigDict(extra="forbid")

    unit: str = Field(min_length=1, max_length=MAX_UNIT_LENGTH)


class ErasedOut(Schema):
    """Rows that lost their texts, labels that will not be graded and records that were removed."""

    completions: int
    labels: int
    shadow_runs: int
    dead_letters: int


@router.post("", response=ErasedOut)
def erase(request: HttpRequest, wanted: ErasureIn) -> Erased:
    """Erase the texts of a unit in the key's use case; a second time changes nothing. Counts and verdicts stay."""
    calling = caller(request)
    return erase_unit(f"key {calling.pk}", calling.use_case, wanted.unit)
