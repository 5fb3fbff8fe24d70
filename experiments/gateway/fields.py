"""Reading the fields of a request's body; each error names the parameter, its value and the bound. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import orjson

from experiments.gateway.errors import ApiError, invalid

MAX_DEPTH = 100
# A value that is repeated in a refusal; a body may hold a megabyte of it.
_SHOWN_CHARACTERS = 200


def json_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body.

    Raises:
        ApiError: 400 when it holds something else, or a character that nothing can store.
    """
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"the body is no JSON: {error}", "invalid_json") from error
    if not isinstance(data, dict):
        raise ApiError(400, "the body must be a JSON object", "invalid_json")
    _refuse_unstorable(data)
    return data


def _refuse_unstorable(data: dict[str, Any]) -> None:
    """PostgreSQL stores no NUL character, and what is nested deeper is read but never written as JSON.

    Walked without recursion: a body may be nested deeper than Python's stack.
    """
    waiting = [(name, inner, 1) for name, value in data.items() for inner in (name, value)]
    while waiting:
        name, value, depth = waiting.pop()
        if isinstance(value, str) and "\x00" in value:
            raise invalid(name.replace("\x00", ""), f"{shown(name)} must hold no NUL character")
        if not isinstance(value, dict | list):
            continue
        if depth > MAX_DEPTH:
            raise invalid(name, f"{shown(name)} must be nested at most {MAX_DEPTH} levels deep")
        inside = value if isinstance(value, list) else [inner for pair in value.items() for inner in pair]
        waiting.extend((name, inner, depth + 1) for inner in inside)


def shown(value: object) -> str:
    """A value as a refusal shows it: not longer than a line, and however deep it is nested."""
    try:
        text = repr(value)
    except RecursionError:
        return f"a {type(value).__name__} nested too deep to be shown"
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."


def boolean(data: Mapping[str, Any], name: str, within: str = "") -> bool:
    """True or false; false when not given."""
    value = data.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise invalid(within + name, f"{within}{name} must be true or false, got {shown(value)}")
    return value


def text(data: Mapping[str, Any], name: str, *, required: bool = False) -> str | None:
    """A text, not empty where it is required."""
    value = data.get(name)
    if value is None and not required:
        return None
    if not isinstance(value, str) or (required and not value):
        raise invalid(name, f"{name} must be text, got {shown(value)}")
    return value


def number(data: Mapping[str, Any], name: str, low: float, high: float) -> float | None:
    """A number within bounds."""
    value = data.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise invalid(name, f"{name} must be a number, got {shown(value)}")
    if not low <= value <= high:
        raise invalid(name, f"{name} must be from {low:g} to {high:g}, got {shown(value)}")
    return float(value)


def integer(data: Mapping[str, Any], name: str, low: int, high: int) -> int | None:
    """A whole number within bounds."""
    value = data.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid(name, f"{name} must be an integer, got {shown(value)}")
    if not low <= value <= high:
        raise invalid(name, f"{name} must be from {low} to {high}, got {value}")
    return value
