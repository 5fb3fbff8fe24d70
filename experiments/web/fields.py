"""Form fields whose errors name the value and the bound, and the fields of a policy made from its schema."""

from __future__ import annotations

import math
from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from experiments.policies import Policy, policy_schema
from experiments.policies.parameters import Parameter, parameters_of
from experiments.web.wording import label, number, plain


class NumberField(forms.Field):
    """A number within bounds, typed in a unit that people use.

    Args:
        what: the number's name in errors.
        unit: shown behind the input, and in errors.
        low: the bound below.
        high: the bound above, or None.
        whole: only integers are allowed, and the bounds are allowed values; otherwise they are not.
    """

    def __init__(
        self, *, what: str, unit: str, low: float, high: float | None, whole: bool = False, **kwargs: Any
    ) -> None:
        mode = "numeric" if whole else "decimal"
        widget = forms.TextInput(attrs={"inputmode": mode, "autocomplete": "off", "class": "number"})
        super().__init__(widget=widget, **kwargs)
        self.what, self.unit, self.low, self.high, self.whole = what, unit, low, high, whole
        self.error_messages["required"] = f"{what} is needed: a number {self._bounds()}."

    def to_python(self, value: Any) -> float | int | None:
        """The typed number; "5,000" and "5 000" are refused rather than guessed at."""
        text = "" if value is None else str(value).strip()
        if not text:
            return None
        try:
            parsed = int(text) if self.whole else float(text)
        except ValueError:
            parsed = math.nan
        if not math.isfinite(parsed):
            kind = "a whole number" if self.whole else "a number"
            raise ValidationError(f"{self.what} must be {kind} {self._bounds()}, got {text!r}.")
        return parsed

    def validate(self, value: Any) -> None:
        """Refuse what lies outside the bounds."""
        super().validate(value)
        if value is None:
            return
        inside = value >= self.low if self.whole else value > self.low
        if self.high is not None:
            inside = inside and (value <= self.high if self.whole else value < self.high)
        if not inside:
            raise ValidationError(f"{self.what} must be {self._bounds()}, got {plain(value)}.")

    def _bounds(self) -> str:
        if self.high is None:
            return f"at least {number(self.low)}"
        if self.whole:
            return f"from {number(self.low)} to {number(self.high)} {self.unit}".rstrip()
        return f"above {number(self.low)} and below {number(self.high)} {self.unit}".rstrip()


class ParameterField(forms.Field):
    """One parameter of a policy; its own declaration says what is allowed."""

    def __init__(self, name: str, parameter: Parameter, schema: dict[str, Any]) -> None:
        choices = [(value, value) for value in schema.get("enum", [])]
        attrs = {"autocomplete": "off"}
        if parameter.kind is not str:
            attrs |= {"class": "number", "inputmode": "decimal"}
        super().__init__(
            required=False,
            label=label(name),
            help_text=_help(schema),
            initial=schema.get("default"),
            widget=forms.Select(choices=choices) if choices else forms.TextInput(attrs=attrs),
        )
        self.name, self.parameter = name, parameter
        self.unit = schema.get("unit", "")

    def clean(self, value: Any) -> Any:
        """The value with its JSON type, or an error that names the parameter, the value and the bound."""
        parsed = self._parse("" if value is None else str(value))
        try:
            self.parameter.check(label(self.name), parsed)
        except ValueError as error:
            raise ValidationError(f"{error}.") from error
        return parsed

    def _parse(self, text: str) -> Any:
        if self.parameter.kind is str:
            return text  # a phrase keeps its white space
        text = text.strip()
        if not text and self.parameter.optional:
            return None
        try:
            return int(text) if self.parameter.kind is int else float(text)
        except ValueError:
            return text  # the declaration refuses it, in words


class ParameterForm(forms.Form):
    """The parameters of one policy."""

    def __init__(self, policy: type[Policy], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.policy = policy
        properties = policy_schema(policy)["properties"]
        common = parameters_of(Policy)
        # What makes the policy what it is comes first, the cap that every policy may carry last.
        for name, (parameter, _) in sorted(parameters_of(policy).items(), key=lambda item: item[0] in common):
            self.fields[name] = ParameterField(name, parameter, properties[name])

    def spec(self) -> dict[str, Any]:
        """The policy's JSON form; call it when the form is valid."""
        return {"name": self.policy.name, "parameters": dict(self.cleaned_data)}


def _help(schema: dict[str, Any]) -> str:
    """The description with the bounds; optional parameters say so."""
    low, high = schema.get("minimum"), schema.get("maximum")
    text = str(schema["description"])
    if low is not None and high is not None:
        text += f" From {number(low)} to {number(high)}."
    if "null" in schema["type"] and "empty" not in text:
        text += " Empty: none."
    return text
