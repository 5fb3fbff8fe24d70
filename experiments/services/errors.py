"""Errors of the services, in a form that pages and API can show."""

from __future__ import annotations

from collections.abc import Sequence


class ServiceError(Exception):
    """Something was asked for that can't be done; nothing was changed.

    Attributes:
        field: the input at fault ("" when it is none in particular).
    """

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class InvalidInput(ServiceError):
    """A value is not allowed; the message names the field, the value and the bound."""


class WrongState(ServiceError):
    """The experiment's state doesn't allow this."""


def invalid_value(path: Sequence[object], said: str, value: object) -> InvalidInput:
    """What is wrong with a value within a body.

    Args:
        path: where it is: names and indices; empty: the body itself.
        said: what is wrong, with the bound.
        value: the value.
    """
    field = ".".join(map(str, path)) or "body"
    shown = repr(value)
    return InvalidInput(f"{field}: {said}, got {shown if len(shown) <= 80 else shown[:80] + '...'}", field)
