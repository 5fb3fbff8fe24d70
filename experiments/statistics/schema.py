"""The JSON Schema of a stored value, made from the dataclasses that it is read back into."""

from __future__ import annotations

import inspect
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, Union, get_args, get_origin, get_type_hints

from experiments.statistics.results import NotEstimable

_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean"}


def json_schema(cls: type) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of `codec.encode(value)` for values of a dataclass."""
    definitions: dict[str, Any] = {}
    reference = _schema(cls, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": cls.__name__,
        **reference,
        "$defs": dict(sorted(definitions.items())),
    }


def _schema(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(option, definitions) for option in get_args(hint)]}
    if origin is tuple:
        return {"type": "array", "items": _schema(get_args(hint)[0], definitions)}
    if origin is not None and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _schema(get_args(hint)[1], definitions)}
    if hint is types.NoneType:
        return {"type": "null"}
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    if isinstance(hint, type) and issubclass(hint, Enum):
        return {"type": "string", "enum": [item.value for item in hint]}
    if is_dataclass(hint) and isinstance(hint, type):
        return _reference(hint, definitions)
    raise TypeError(f"no JSON Schema for {hint!r}")


def _reference(cls: type, definitions: dict[str, Any]) -> dict[str, Any]:
    name = cls.__name__
    if name not in definitions:
        definitions[name] = {}  # so that a type that holds itself ends here
        definitions[name] = _object(cls, definitions)
    return {"$ref": f"#/$defs/{name}"}


def _object(cls: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    if cls is NotEstimable:
        names, properties = ["not_estimable"], {"not_estimable": {"type": "string"}}
    else:
        hints = get_type_hints(cls)
        names = [field.name for field in fields(cls)]
        properties = {name: _schema(hints[name], definitions) for name in names}
    return {
        "type": "object",
        "description": inspect.getdoc(cls) or "",
        "properties": properties,
        "required": names,
        "additionalProperties": False,
    }
