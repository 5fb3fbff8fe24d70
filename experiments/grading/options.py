"""Options of graders: declared once on the dataclass field, checked whenever a grader is made."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any, Protocol

_METADATA_KEY = "option"
MAX_PATTERNS = 16
MAX_PATTERN_LENGTH = 256


class Option(Protocol):
    """What one option may be."""

    def checked(self, name: str, value: object) -> Any:
        """The value in its one spelling; ValueError names the option, the value and the bound."""


@dataclasses.dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""

    def checked(self, name: str, value: object) -> bool:
        """The value itself."""
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be true or false, got {value!r}")
        return value


@dataclasses.dataclass(frozen=True, slots=True)
class Number:
    """A finite number within inclusive bounds; ``whole`` ones are integers."""

    minimum: float
    maximum: float
    whole: bool = False

    def checked(self, name: str, value: object) -> float:
        """The value as float, or as int where it must be whole."""
        # bool is an int in Python, but `true` is no tolerance.
        kinds = (int,) if self.whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or (isinstance(value, float) and math.isnan(value)):
            raise ValueError(f"{name} must be {'an integer' if self.whole else 'a number'}, got {value!r}")
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"{name} must be from {self.minimum:g} to {self.maximum:g}, got {value!r}")
        # 1 and 1.0, -0.0 and 0.0 are one number and must give one identity.
        return value if self.whole else float(value) + 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words."""

    choices: tuple[str, ...]

    def checked(self, name: str, value: object) -> str:
        """The value itself."""
        if not isinstance(value, str) or value not in self.choices:
            raise ValueError(f"{name} must be one of {', '.join(self.choices)}, got {value!r}")
        return value


@dataclasses.dataclass(frozen=True, slots=True)
class Patterns:
    """A list of regular expressions."""

    def checked(self, name: str, value: object) -> tuple[str, ...]:
        """The list as a tuple."""
        if not isinstance(value, list | tuple) or not all(isinstance(pattern, str) for pattern in value):
            raise ValueError(f"{name} must be a list of regular expressions, got {value!r}")
        if len(value) > MAX_PATTERNS:
            raise ValueError(f"{name} must have at most {MAX_PATTERNS} entries, got {len(value)}")
        for number, pattern in enumerate(value, 1):
            if not 0 < len(pattern) <= MAX_PATTERN_LENGTH:
                raise ValueError(
                    f"{name}[{number}] must have from 1 to {MAX_PATTERN_LENGTH} characters, got {len(pattern)}"
                )
            if (fault := pattern_fault(pattern)) is not None:
                raise ValueError(f"{name}[{number}] is no regular expression: {fault} (got {pattern!r})")
        return tuple(value)


@dataclasses.dataclass(frozen=True, slots=True)
class Letters:
    """Different letters from A to Z, in one text."""

    def checked(self, name: str, value: object) -> str:
        """The letters in upper case."""
        if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z]{2,26}", value):
            raise ValueError(f"{name} must be from 2 to 26 letters from A to Z, got {value!r}")
        upper = value.upper()
        if len(set(upper)) < len(upper):
            raise ValueError(f"{name} must not name a letter twice, got {value!r}")
        return upper


def pattern_fault(pattern: str) -> str | None:
    """Why ``pattern`` cannot be compiled as a regular expression; None when it can."""
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return str(error)
    return None


def declare(option: Option, default: Any) -> Any:
    """A dataclass field that carries its option."""
    return dataclasses.field(default=default, metadata={_METADATA_KEY: option})


def options_of(cls: type) -> Mapping[str, Option]:
    """The declared options of a grader class by name, in the order of declaration."""
    if not dataclasses.is_dataclass(cls):
        return {}
    return {f.name: f.metadata[_METADATA_KEY] for f in dataclasses.fields(cls) if _METADATA_KEY in f.metadata}
