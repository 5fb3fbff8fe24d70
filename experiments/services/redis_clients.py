"""Connections to Redis for synchronous and asynchronous code."""

from __future__ import annotations

from functools import cache
from typing import Any

import redis
import redis.asyncio
from django.conf import settings

# Well above every blocking read (1 s), so that a busy machine is not taken for a dead server.
_TIMEOUT_SECONDS = 30


def sync_redis_client() -> redis.Redis:
    """A new synchronous client; its owner closes it."""
    return redis.Redis.from_url(settings.REDIS_URL, socket_timeout=_TIMEOUT_SECONDS)


@cache
def sync_redis() -> redis.Redis:
    """The process-wide synchronous client (its pool is thread-safe)."""
    return sync_redis_client()


def async_redis() -> Any:
    """A new asynchronous client; it belongs to the running event loop and is closed by its owner."""
    return redis.asyncio.Redis.from_url(settings.REDIS_URL, socket_timeout=_TIMEOUT_SECONDS)
