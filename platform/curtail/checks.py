"""Numbered system checks: what would break later, said by ``manage.py check`` and before every command.

=============  ================================================================================
curtail.E001   ``platform/__init__.py`` exists: Python's own ``platform`` would be shadowed
curtail.E002   something in ``platform/`` has the name of a standard library module
curtail.E003   the database is not PostgreSQL
curtail.E004   the secret key is weak and DEBUG is off
curtail.W001   hosts other than this machine are served without HTTPS cookies
=============  ================================================================================
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, register
from django.core.checks import Warning as CheckWarning

TAG = "curtail"
MIN_SECRET_LENGTH = 32
MIN_SECRET_CHARACTERS = 8
LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]", "testserver")

Apps = Sequence[AppConfig] | None


@register(TAG)
def platform_is_no_package(app_configs: Apps, **kwargs: Any) -> list[CheckMessage]:
    """E001: the folder ``platform/`` must never become a package."""
    path = Path(settings.BASE_DIR) / "platform" / "__init__.py"
    if not path.exists():
        return []
    return [
        Error(
            f"{path} exists and shadows Python's own module platform.",
            hint="Remove the file: platform/ is a plain folder on the path.",
            id="curtail.E001",
        )
    ]


@register(TAG)
def platform_shadows_nothing(app_configs: Apps, **kwargs: Any) -> list[CheckMessage]:
    """E002: what lies in ``platform/`` is importable by its bare name."""
    folder = Path(settings.BASE_DIR) / "platform"
    names = sorted(entry.stem for entry in folder.iterdir()) if folder.is_dir() else []
    return [
        Error(
            f"platform/{name} shadows Python's own module {name}.",
            hint="Rename it: everything in platform/ is importable by its bare name.",
            id="curtail.E002",
        )
        for name in names
        if name in sys.stdlib_module_names
    ]


@register(TAG)
def database_is_postgresql(app_configs: Apps, **kwargs: Any) -> list[CheckMessage]:
    """E003: there is no second dialect."""
    engine = settings.DATABASES["default"]["ENGINE"]
    if engine == "django.db.backends.postgresql":
        return []
    return [
        Error(
            f"The database engine is {engine}, and Curtail works with PostgreSQL only.",
            hint="Set DATABASE_URL to postgresql://..., or unset it for the embedded server.",
            id="curtail.E003",
        )
    ]


@register(TAG)
def secret_key_is_strong(app_configs: Apps, **kwargs: Any) -> list[CheckMessage]:
    """E004: sessions and keyed hashes depend on the secret key."""
    key = settings.SECRET_KEY
    strong = len(key) >= MIN_SECRET_LENGTH and len(set(key)) >= MIN_SECRET_CHARACTERS
    if settings.DEBUG or strong:
        return []
    return [
        Error(
            f"CURTAIL_SECRET_KEY must have at least {MIN_SECRET_LENGTH} characters, "
            f"{MIN_SECRET_CHARACTERS} of them different, got {len(key)} with {len(set(key))} different.",
            hint="Make one with: python -c 'import secrets; print(secrets.token_urlsafe(50))'",
            id="curtail.E004",
        )
    ]


@register(TAG)
def cookies_are_safe(app_configs: Apps, **kwargs: Any) -> list[CheckMessage]:
    """W001: a session cookie without ``Secure`` can be read on the way."""
    hosts = [host for host in settings.ALLOWED_HOSTS if host not in LOCAL_HOSTS]
    if settings.DEBUG or settings.SESSION_COOKIE_SECURE or not hosts:
        return []
    return [
        CheckWarning(
            f"CURTAIL_HTTPS is off and {', '.join(hosts)} may be served: session cookies travel unprotected.",
            hint="Serve through TLS and leave CURTAIL_HTTPS unset.",
            id="curtail.W001",
        )
    ]
