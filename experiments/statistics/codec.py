"""Frozen dataclasses to plain JSON values and back, by their type hints."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from experiments.statistics.results import NotEstimable

# A NotEstimable is told from the value whose place it takes by this one key.
_MISSING = "not_estimable"


def encode(value: Any) -> Any:
    """A dataclass, enum, tuple or mapping as dicts, lists, strings, numbers and None."""
    if isinstance(value, NotEstimable):
        return {_MISSING: value.reason}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"cannot encode {type(value).__name__}: {value!r}")


def decode(hint: Any, value: Any, where: str = "snapshot") -> Any:
    """The inverse of `encode` for a type hint.

    Raises:
        ValueError: a field is missing or unknown, or a value has another type; the message names its path.
    """
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _decode_union(get_args(hint), value, where)
    if origin is tuple:
        return tuple(decode(get_args(hint)[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        item_hint = get_args(hint)[1]
        return {key: decode(item_hint, item, f"{where}.{key}") for key, item in value.items()}
    if is_dataclass(hint):
        return _decode_dataclass(hint, value, where)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(value)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    raise ValueError(f"{where} must be {getattr(hint, '__name__', hint)}, got {value!r}")


def _decode_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and types.NoneType in options:
        return None
    if isinstance(value, Mapping) and set(value) == {_MISSING} and NotEstimable in options:
        return NotEstimable(value[_MISSING])
    rest = [option for option in options if option not in (types.NoneType, NotEstimable)]
    if len(rest) != 1:
        raise TypeError(f"{where} has an ambiguous union {options}")
    return decode(rest[0], value, where)


def _decode_dataclass(hint: Any, value: Any, where: str) -> Any:
    hints = _hints(hint)
    if not isinstance(value, Mapping) or value.keys() != hints.keys():
        got = sorted(value) if isinstance(value, Mapping) else value
        raise ValueError(f"{where} must have the fields {sorted(hints)}, got {got}")
    return hint(**{name: decode(hints[name], item, f"{where}.{name}") for name, item in value.items()})


@cache
def _hints(hint: Any) -> dict[str, Any]:
    return get_type_hints(hint)
