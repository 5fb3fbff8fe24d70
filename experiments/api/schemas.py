"""GET /api/v1/schemas: the form of what is stored and returned."""

from __future__ import annotations

from functools import cache
from typing import Any

from django.http import HttpRequest
from ninja import Router

from experiments.policies import policies_schema
from experiments.statistics.schema import json_schema
from experiments.statistics.snapshot import SCHEMA_VERSION, Snapshot

router = Router(tags=["schemas"])


@router.get("/snapshot", response=dict[str, Any])
def read_snapshot_schema(request: HttpRequest) -> dict[str, Any]:
    """JSON Schema of a snapshot; it changes with its schema_version only."""
    return _snapshot_schema()


@router.get("/policies", response=dict[str, Any])
def read_policies_schema(request: HttpRequest) -> dict[str, Any]:
    """JSON Schema of a policy: every policy with its parameters, their units, defaults and bounds, and its signals."""
    return policies_schema()


@cache
def _snapshot_schema() -> dict[str, Any]:
    schema = json_schema(Snapshot)
    schema["$defs"]["Snapshot"]["properties"]["schema_version"] = {"const": SCHEMA_VERSION}
    return schema
