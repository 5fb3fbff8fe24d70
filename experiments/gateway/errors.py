"""Errors in OpenAI's form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


# Not frozen: Python itself sets an exception's traceback while it passes through context managers.
@dataclass(eq=False)
class ApiError(Exception):
    """A refusal or failure on /v1.

    Attributes:
        status: HTTP status.
        message: one sentence that names the parameter, the value and the bound.
        code: short, stable name.
        param: the request's parameter at fault.
        headers: response headers besides the usual ones.
    """

    status: int
    message: str
    code: str
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """The JSON body."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def invalid(param: str, message: str, code: str = "invalid_value") -> ApiError:
    """A 400 about one parameter."""
    return ApiError(400, message, code, param)
