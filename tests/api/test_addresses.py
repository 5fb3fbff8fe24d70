"""Nothing that an API key or a person on the pages sends is an address, a path or a server of ours to open."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.forms import BaseForm, URLField

from experiments.api import api
from experiments.models import Checkpoint, UseCase
from experiments.web.forms import DesignForm, TreatmentForm
from tests.api.conftest import Call

_ADDRESS = re.compile(r"(^|_)(url|uri|href|host|hostname|address|endpoint|webhook|server|path|file|callback)s?($|_)")


def fields(schema: Any, definitions: dict[str, Any], seen: frozenset[str] = frozenset()) -> Iterator[tuple[str, Any]]:
    """Name and schema of each field in a schema, however deep."""
    if isinstance(schema, list):
        for item in schema:
            yield from fields(item, definitions, seen)
        return
    if not isinstance(schema, dict):
        return
    if isinstance(reference := schema.get("$ref"), str):
        name = reference.rpartition("/")[2]
        if name not in seen:
            yield from fields(definitions.get(name), definitions, seen | {name})
    for name, item in schema.get("properties", {}).items():
        yield name, item
    for key, item in schema.items():
        if key != "properties":
            yield from fields(item, definitions, seen)
    yield from fields(list(schema.get("properties", {}).values()), definitions, seen)


def taken() -> Iterator[tuple[str, str, Any]]:
    """Operation, field name and schema of all that the API takes."""
    document = api.get_openapi_schema()
    definitions = document["components"]["schemas"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            where = f"{method.upper()} {path}"
            for parameter in operation.get("parameters", []):
                yield where, parameter["name"], parameter["schema"]
            for name, schema in fields(operation.get("requestBody"), definitions):
                yield where, name, schema


def test_no_field_of_the_api_is_an_address(db: None) -> None:
    found = list(taken())
    assert {"unit", "retention", "scopes"} <= {name for _, name, _ in found}
    assert [(where, name) for where, name, schema in found if _ADDRESS.search(name) or "uri" in str(schema)] == []


@pytest.mark.parametrize("form", [DesignForm, TreatmentForm])
def test_no_field_of_a_page_is_an_address(form: type[BaseForm]) -> None:
    assert form.base_fields
    for name, field in form.base_fields.items():
        assert not _ADDRESS.search(name)
        assert not isinstance(field, URLField)


def test_a_checkpoint_is_chosen_among_registered_ones_never_by_its_path(call: Call, use_case: UseCase) -> None:
    answer = call(
        "PATCH",
        "/use-case",
        scopes=["manage"],
        data='{"retention": "keep", "checkpoint": "/etc", "path": "http://169.254.169.254"}',
        content_type="application/json",
    )
    assert answer.status_code == 422
    assert list(Checkpoint.objects.values_list("path", flat=True)) == ["/nowhere"]
