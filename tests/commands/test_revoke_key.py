"""`manage.py revoke_key`."""

from __future__ import annotations

from io import StringIO

import pytest
import redis
from django.core.management import CommandError, call_command

from experiments.models import ApiKey

pytestmark = pytest.mark.django_db


def test_a_key_is_revoked_by_its_id(redis_client: redis.Redis) -> None:
    call_command("register", "qwen", "/models/qwen", context=32768, stdout=StringIO())
    key = ApiKey.objects.get()
    call_command("revoke_key", str(key.pk), stdout=StringIO())
    key.refresh_from_db()
    assert key.revoked_at is not None


def test_an_unknown_key_is_named() -> None:
    with pytest.raises(CommandError, match="key must be the id of an API key, got 0"):
        call_command("revoke_key", "0", stdout=StringIO())
