"""Keyed hashes: of API keys, of unit ids and of texts. The key is derived from the installation's secret."""

from __future__ import annotations

import hashlib
import hmac
from functools import lru_cache

from django.conf import settings


@lru_cache(maxsize=8)
def _purpose_key(secret: str, purpose: str) -> bytes:
    return hmac.new(secret.encode(), f"curtail:{purpose}".encode(), hashlib.sha256).digest()


def purpose_key(purpose: str) -> bytes:
    """A key of 32 bytes for one purpose."""
    return _purpose_key(settings.SECRET_KEY, purpose)


def _keyed_hash(purpose: str, text: str) -> str:
    return hmac.digest(purpose_key(purpose), text.encode("utf-8", "surrogatepass"), "sha256").hex()


def api_key_digest(token: str) -> str:
    """What is stored of an API key: 64 hex digits."""
    return _keyed_hash("api-key", token)


def forced_variant_signature(experiment_id: int, variant: str, expires: int) -> str:
    """What shows that the server let a tester ask for a variant until then: 64 hex digits."""
    return _keyed_hash("force-variant", f"{experiment_id}:{variant}:{expires}")


def unit_digest(unit: str) -> str:
    """What is stored of a unit id: 32 hex digits."""
    return _keyed_hash("unit", unit)[:32]


def assignment_tag(text: str) -> str:
    """What an assignment's id is signed with: 16 hex digits."""
    return _keyed_hash("assignment", text)[:16]


def text_digest(text: str) -> str:
    """What is kept of a text that is hashed: 64 hex digits."""
    return _keyed_hash("text", text)
