"""Parameters of policies: declared once on the dataclass field, used for validation and for the JSON schema."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

_METADATA_KEY = "parameter"


@dataclasses.dataclass(frozen=True, slots=True)
class Parameter:
    """What one policy parameter means and which values it takes.

    Attributes:
        kind: the Python type of a value: ``int``, ``float`` or ``str``.
        description: one sentence for the form and the API documentation.
        unit: unit of the value ("tokens", "probes", "probability", ...), or "" where it has none.
        minimum: smallest allowed value, or None.
        maximum: largest allowed value, or None; of a ``str`` the largest number of characters.
        choices: the allowed values of a ``str`` parameter; empty: any text.
        optional: whether None is allowed.
    """

    kind: type
    description: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    optional: bool = False

    def check(self, name: str, value: object) -> None:
        """Raise ValueError naming the parameter, the value and the bound when ``value`` is not allowed."""
        if value is None:
            if self.optional:
                return
            raise ValueError(f"{name} is required, got null")
        if self.kind is str:
            self._check_text(name, value)
            return
        self._check_number(name, value)

    def _check_text(self, name: str, value: object) -> None:
        if self.choices and value not in self.choices:
            raise ValueError(f"{name} must be one of {', '.join(self.choices)}, got {value!r}")
        if not isinstance(value, str):
            raise ValueError(f"{name} must be a text, got {value!r}")
        if self.maximum is not None and len(value) > self.maximum:
            raise ValueError(f"{name} must have at most {self.maximum:g} characters, got {len(value)}")

    def _check_number(self, name: str, value: object) -> None:
        wanted = "an integer" if self.kind is int else "a number"
        numeric = (int,) if self.kind is int else (int, float)
        # bool is an int in Python, but `true` is no token count.
        # An int is finite whatever its size (and math.isfinite cannot take a huge one).
        infinite = isinstance(value, float) and not math.isfinite(value)
        if isinstance(value, bool) or not isinstance(value, numeric) or infinite:
            raise ValueError(f"{name} must be {wanted}, got {value!r}")
        if self.minimum is not None and value < self.minimum:
            raise ValueError(f"{name} must be at least {self.minimum:.9g}, got {value!r}")
        if self.maximum is not None and value > self.maximum:
            raise ValueError(f"{name} must be at most {self.maximum:.9g}, got {value!r}")

    def schema(self) -> dict[str, Any]:
        """JSON schema (draft 2020-12) of one value."""
        json_type = {int: "integer", float: "number", str: "string"}[self.kind]
        schema: dict[str, Any] = {
            "type": [json_type, "null"] if self.optional else json_type,
            "description": self.description,
        }
        if self.unit:
            schema["unit"] = self.unit
        if self.minimum is not None:
            schema["minimum"] = self.minimum
        if self.maximum is not None:
            schema["maxLength" if self.kind is str else "maximum"] = self.maximum
        if self.choices:
            schema["enum"] = list(self.choices)
        return schema


def declare(parameter: Parameter, default: Any = dataclasses.MISSING) -> Any:
    """A dataclass field that carries its :class:`Parameter`; without a default the field is required."""
    metadata = {_METADATA_KEY: parameter}
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def parameters_of(cls: type) -> Mapping[str, tuple[Parameter, dataclasses.Field[Any]]]:
    """Declared parameters of a policy class by name, in the order of declaration."""
    return {
        field.name: (field.metadata[_METADATA_KEY], field)
        for field in dataclasses.fields(cls)
        if _METADATA_KEY in field.metadata
    }


def check_all(instance: object) -> None:
    """Validate every declared parameter of ``instance``; the first bad one raises ValueError.

    Equal numbers get one spelling (1 and 1.0, -0.0 and 0.0), so that equal policies have equal versions.
    """
    for name, (parameter, _) in parameters_of(type(instance)).items():
        value = getattr(instance, name)
        parameter.check(name, value)
        if parameter.kind is float and value is not None:
            object.__setattr__(instance, name, float(value) + 0.0)
