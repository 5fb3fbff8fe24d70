"""The management API under /api/v1, with its OpenAPI schema at /api/v1/openapi.json."""

from __future__ import annotations

from experiments.api.root import api

__all__ = ["api"]
