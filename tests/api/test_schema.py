"""The whole management API against its own OpenAPI schema: what nobody thought of gets an answer that it declares.

``--long`` searches longer.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import schemathesis
from django.core.handlers.wsgi import WSGIHandler
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from experiments.api import api
from experiments.models import Experiment, UseCase
from experiments.services.experiments import VariantSpec, create_experiment, start
from experiments.services.registry import issue_api_key

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_client", "fresh_routing")]
CHECKS = [not_a_server_error, response_schema_conformance, content_type_conformance]
EXAMPLES, LONG_EXAMPLES = 30, 600
SCOPES = ["serve", "label", "manage"]


@schemathesis.serializer("application/x-ndjson")
def _lines(context: Any, value: Any) -> bytes:
    """Text as it is; values of a wrong type as JSON."""
    return value.encode(errors="surrogatepass") if isinstance(value, str) else json.dumps(value, default=str).encode()


def _operations() -> list[tuple[str, str]]:
    paths = api.get_openapi_schema()["paths"]
    return [(path, method) for path, methods in paths.items() for method in methods]


@pytest.fixture
def key(use_case: UseCase) -> str:
    """A key that may do everything."""
    return issue_api_key("ada", "fuzz", use_case, SCOPES).token


@pytest.fixture
def experiments_of(use_case: UseCase) -> list[Experiment]:
    """A running experiment and a draft."""
    arms = [
        VariantSpec("full", {"name": "full"}, use_case.checkpoint, 0.5, is_control=True),
        VariantSpec("short", {"name": "confidence", "parameters": {"threshold": 0.9}}, use_case.checkpoint, 0.5),
    ]
    drafts = [create_experiment("ada", use_case, name, arms) for name in ("one", "two")]
    return [start("ada", drafts[0]), drafts[1]]


@pytest.mark.parametrize(("path", "method"), _operations())
def test_an_operation_answers_as_its_schema_says(
    pytestconfig: pytest.Config, key: str, experiments_of: list[Experiment], path: str, method: str
) -> None:
    operation = schemathesis.openapi.from_wsgi("/api/v1/openapi.json", app=WSGIHandler())[path][method]
    examples = LONG_EXAMPLES if pytestconfig.getoption("long") else EXAMPLES
    _search(operation.as_strategy(), examples, key, experiments_of)
    if operation.body or any(True for _ in operation.iter_parameters()):  # what can be wrong
        _search(operation.as_strategy(generation_mode=GenerationMode.NEGATIVE), examples, key, experiments_of)


def _search(cases: SearchStrategy[Any], examples: int, key: str, known: list[Experiment]) -> None:
    """Look for a case whose answer fails a check: the same cases at each call."""

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases)
    def check(case: Any) -> None:
        number = case.path_parameters.get("experiment_id")
        if number in (0, 1):  # an experiment that there is
            case.path_parameters["experiment_id"] = known[number].pk
        case.call_and_validate(headers={"authorization": f"Bearer {key}"}, checks=CHECKS)

    check()
