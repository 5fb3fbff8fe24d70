"""`manage.py issue_key` and `manage.py list_keys`."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
import redis
from django.core.management import CommandError, call_command

from experiments.models import ApiKey
from experiments.services.secrets import api_key_digest

pytestmark = pytest.mark.django_db


def run(*arguments: Any) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


def issued(*arguments: str) -> str:
    """The token of a new key."""
    return run("issue_key", *arguments).split()[-1]


@pytest.fixture
def use_case(redis_client: redis.Redis) -> str:
    """The slug of a registered use case."""
    call_command("register", "qwen", "/models/qwen", context=32768, stdout=StringIO())
    return ApiKey.objects.get().use_case.slug


def test_a_new_keys_token_is_shown_and_stored_as_its_hash(use_case: str) -> None:
    token = issued("ci", use_case, "--scope", "label", "--scope", "serve")
    key = ApiKey.objects.get(digest=api_key_digest(token))
    assert (key.name, key.scopes, key.use_case.slug) == ("ci", ["label", "serve"], use_case)


def test_a_key_serves_unless_it_is_said_otherwise(use_case: str) -> None:
    token = issued("key", use_case)
    assert ApiKey.objects.get(digest=api_key_digest(token)).scopes == ["serve"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ci", "nowhere"], "use_case must be one of default, got 'nowhere'"),
        (["x" * 121, "{use_case}"], "name must have from 1 to 120 characters, got 121"),
    ],
)
def test_bad_arguments_make_no_key(use_case: str, arguments: list[str], said: str) -> None:
    with pytest.raises(CommandError, match=said):
        run("issue_key", *(argument.format(use_case=use_case) for argument in arguments))
    assert ApiKey.objects.count() == 1


def test_keys_are_listed_with_their_state_and_without_their_token(use_case: str) -> None:
    token = issued("old", use_case)
    key = ApiKey.objects.get(digest=api_key_digest(token))
    run("revoke_key", str(key.pk))
    key.refresh_from_db()
    first, second = run("list_keys").splitlines()
    revoked = f"revoked {key.revoked_at:%Y-%m-%d}"
    assert first.split("\t") == [str(key.pk), token[:8], use_case, "serve", revoked, "old"]
    assert second.split("\t")[4] == "active"
    assert token not in first
