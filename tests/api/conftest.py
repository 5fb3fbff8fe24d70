"""A use case, keys and a caller for the tests of the management API."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.test import Client

from experiments.models import Checkpoint, ModelProfile, UseCase
from experiments.services.registry import issue_api_key
from experiments.services.routing_view import routing_view

Call = Callable[..., Any]


@pytest.fixture
def use_case(db: None) -> UseCase:
    """A use case of a model."""
    model = ModelProfile.objects.create(name="tiny", max_context_tokens=512)
    checkpoint = Checkpoint.objects.create(model=model, name="last", path="/nowhere", step=1000)
    return UseCase.objects.create(slug="arithmetic", name="Arithmetic", checkpoint=checkpoint, policy={"name": "full"})


@pytest.fixture
def call(client: Client, use_case: UseCase) -> Call:
    """Calls a path below /api/v1 with a key of these scopes (None: without a key)."""

    def send(method: str, path: str, *, scopes: list[str] | None, **options: Any) -> Any:
        headers = {}
        if scopes is not None:
            headers["authorization"] = f"Bearer {issue_api_key('ada', 'key', use_case, scopes).token}"
        return client.generic(method, f"/api/v1{path}", headers=headers, **options)

    return send


@pytest.fixture
def fresh_routing() -> Iterator[None]:
    """No view of the routing is left from another test, whose configuration had the same version."""
    routing_view.forget()
    yield
    routing_view.forget()
