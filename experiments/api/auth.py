"""API keys on the management API."""

from __future__ import annotations

from django.http import HttpRequest
from ninja.errors import HttpError
from ninja.security import HttpBearer

from experiments.models import ApiKey
from experiments.services.secrets import api_key_digest


def caller(request: HttpRequest) -> ApiKey:
    """The key of an authorised request."""
    key: ApiKey = request.auth  # type: ignore[attr-defined]
    return key


class KeyAuth(HttpBearer):
    """Demands a key with one scope.

    Args:
        scope: one of ``ApiKey.Scope``.
    """

    def __init__(self, scope: str) -> None:
        super().__init__()
        self._scope = scope

    def authenticate(self, request: HttpRequest, token: str) -> ApiKey | None:
        """The key, or None (401) when it is unknown or revoked; 403 when it lacks the scope."""
        key = ApiKey.objects.filter(digest=api_key_digest(token), revoked_at=None).first()
        if key is not None and self._scope not in key.scopes:
            raise HttpError(403, f"this API key lacks the scope {self._scope!r}")
        return key
