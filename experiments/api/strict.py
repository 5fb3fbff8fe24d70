"""What every operation of the API has in common: strict bodies, and one form of errors, declared in its schema."""

from __future__ import annotations

from typing import Any, cast

import orjson
from django.http import HttpRequest
from ninja import NinjaAPI
from ninja.errors import ValidationError, ValidationErrorContext
from ninja.openapi.schema import OpenAPISchema
from ninja.parser import Parser
from ninja.types import DictStrAny

from experiments.services.errors import invalid_value

_ERROR = {
    "type": "object",
    "required": ["detail"],
    "properties": {
        "detail": {"type": "string", "description": "What is wrong: the field, its value and the bound."},
        "field": {"type": ["string", "null"], "description": "The field at fault."},
    },
}


class StrictParser(Parser):
    """Takes no NaN, no Infinity, no lone surrogates and no nesting that would exhaust the stack."""

    def parse_body(self, request: HttpRequest) -> DictStrAny:
        """The value of a JSON body; ValueError (a 400) when it is none."""
        return cast(DictStrAny, orjson.loads(request.body))


class StrictAPI(NinjaAPI):
    """An API whose errors all have ``detail``, a text, and where a field is at fault ``field``."""

    def __init__(self, **options: Any) -> None:
        super().__init__(parser=StrictParser(), **options)

    def validation_error_from_error_contexts(
        self, error_contexts: list[ValidationErrorContext[Any]]
    ) -> ValidationError:
        """Raises InvalidInput for the first error, in the form of those that the services raise."""
        context = error_contexts[0]
        first = context.pydantic_validation_error.errors(include_url=False)[0]
        # Within a body the name of the function's argument comes first, which no client knows.
        known = first["loc"][1:] if context.model.__ninja_param_source__ == "body" else first["loc"]
        raise invalid_value(known, first["msg"], first["input"])

    def get_openapi_schema(self, **options: Any) -> OpenAPISchema:
        """The schema, with the form of errors in every operation."""
        schema = super().get_openapi_schema(**options)
        errors = {"description": "An error", "content": {"application/json": {"schema": _ERROR}}}
        for methods in schema["paths"].values():
            for operation in methods.values():
                for status in ("4XX", "5XX"):
                    operation["responses"].setdefault(status, errors)
        return schema
