"""Typed readers of environment variables that fail loudly.

Every error names the variable, the value it has and what is allowed, so that a wrong setting ends the start
with one clear line. An empty variable counts as unset: compose files write ``NAME: ${NAME:-}``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

TRUE_WORDS = ("1", "true", "yes", "on")
FALSE_WORDS = ("0", "false", "no", "off")
POSTGRES_SCHEMES = ("postgresql", "postgres")
REDIS_SCHEMES = ("redis", "rediss", "unix", "redis+socket")


class EnvError(ImproperlyConfigured):
    """An environment variable has a value that is not allowed."""


def _raw(name: str) -> str | None:
    value = os.environ.get(name, "").strip()
    return value or None


def text(name: str, default: str) -> str:
    """Return the variable's text, or ``default`` when it is unset or empty."""
    return _raw(name) or default


def optional_text(name: str) -> str | None:
    """Return the variable's text, or None when it is unset or empty."""
    return _raw(name)


def flag(name: str, default: bool) -> bool:
    """Return a boolean variable.

    Raises:
        EnvError: if the value is none of 1, true, yes, on, 0, false, no, off.
    """
    value = _raw(name)
    if value is None:
        return default
    if value.lower() in TRUE_WORDS:
        return True
    if value.lower() in FALSE_WORDS:
        return False
    raise EnvError(f"{name} must be one of {', '.join(TRUE_WORDS + FALSE_WORDS)}, got {value!r}")


def integer(name: str, default: int, *, minimum: int, maximum: int) -> int:
    """Return a whole number within ``[minimum, maximum]``.

    Raises:
        EnvError: if the value is no whole number, or lies outside the bounds.
    """
    value = _raw(name)
    if value is None:
        return default
    allowed = f"{name} must be a whole number in [{minimum}, {maximum}], got {value!r}"
    try:
        number = int(value)
    except ValueError:
        raise EnvError(allowed) from None
    if not minimum <= number <= maximum:
        raise EnvError(allowed)
    return number


def choice(name: str, default: str, choices: Sequence[str]) -> str:
    """Return one of some words.

    Raises:
        EnvError: if the value is another.
    """
    value = (_raw(name) or default).lower()
    if value not in choices:
        raise EnvError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    return value


def items(name: str, default: Sequence[str] = ()) -> list[str]:
    """Return a comma-separated list.

    Raises:
        EnvError: if an item is empty (``a,,b``).
    """
    value = _raw(name)
    if value is None:
        return list(default)
    parts = [part.strip() for part in value.split(",")]
    if not all(parts):
        raise EnvError(f"{name} must be a comma-separated list without empty items, got {value!r}")
    return parts


def without_password(url: str) -> str:
    """Return the URL with its password starred, fit for messages and logs."""
    try:
        password = urlsplit(url).password
    except ValueError:
        return url
    return url.replace(f":{password}@", ":***@") if password else url


def split_url(name: str, value: str, schemes: Sequence[str]) -> SplitResult:
    """Split a URL that must have one of ``schemes``; ``name`` is only used in the error.

    Raises:
        EnvError: if the scheme is another, or host or port cannot be read.
    """
    shown = without_password(value)
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError as error:
        raise EnvError(f"{name} must be a URL, got {shown!r} ({error})") from None
    if parts.scheme not in schemes:
        allowed = ", ".join(f"{scheme}://" for scheme in schemes)
        raise EnvError(f"{name} must start with one of {allowed}, got {shown!r}")
    if port == 0:
        raise EnvError(f"{name} must have a port in [1, 65535], got {shown!r}")
    return parts


def url(name: str, default: str, schemes: Sequence[str]) -> str:
    """Return a URL variable with one of ``schemes``.

    Raises:
        EnvError: if the scheme is another, or host or port cannot be read.
    """
    value = _raw(name)
    if value is None:
        return default
    split_url(name, value, schemes)
    return value


def postgres_settings(name: str, value: str) -> dict[str, Any]:
    """Turn a PostgreSQL URL into Django's settings of one database.

    The host may stand in the query (``postgresql:///db?host=/folder``), as libpq has it for unix sockets.
    What else the query carries (``sslmode=require``) becomes a connection option.

    Raises:
        EnvError: if it is no PostgreSQL URL, or names no database.
    """
    parts = split_url(name, value, POSTGRES_SCHEMES)
    database = unquote(parts.path.lstrip("/"))
    if not database:
        raise EnvError(f"{name} must name a database (postgresql://host/NAME), got {without_password(value)!r}")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    host = options.pop("host", None) or unquote(parts.hostname or "")
    port = options.pop("port", None) or str(parts.port or "")
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": database,
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": host,
        "PORT": port,
        "OPTIONS": options,
    }


def with_database(url: str, database: str) -> str:
    """Return the PostgreSQL URL with another database of the same server."""
    parts = urlsplit(url)
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{parts.netloc}/{quote(database, safe='')}{query}"


def redis_client_url(name: str, value: str) -> str:
    """Return the form of a Redis URL that redis-py takes (``unix:///path?db=0`` for sockets).

    Raises:
        EnvError: if it is no Redis URL, or a socket URL without a path.
    """
    parts = split_url(name, value, REDIS_SCHEMES)
    if parts.scheme in ("redis", "rediss"):
        return value
    if not parts.path.strip("/"):
        raise EnvError(f"{name} must name a socket (unix:///folder/redis.sock), got {without_password(value)!r}")
    query = dict(parse_qsl(parts.query))
    number = query.get("db") or query.get("virtual_host") or "0"
    return f"unix://{_userinfo(parts)}{parts.path}?db={number}"


def redis_broker_url(name: str, value: str) -> str:
    """Return the form of a Redis URL that Celery takes (``redis+socket:///path?virtual_host=0`` for sockets).

    Raises:
        EnvError: if it is no Redis URL, or a socket URL without a path.
    """
    client = redis_client_url(name, value)
    parts = urlsplit(client)
    if parts.scheme != "unix":
        return client
    number = dict(parse_qsl(parts.query))["db"]
    return f"redis+socket://{_userinfo(parts)}{parts.path}?virtual_host={number}"


def _userinfo(parts: SplitResult) -> str:
    return parts.netloc.rpartition("@")[0] + "@" if "@" in parts.netloc else ""
