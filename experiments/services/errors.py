"""Errors of the services, in a form that pages and API can show."""

from __future__ import annotations


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
