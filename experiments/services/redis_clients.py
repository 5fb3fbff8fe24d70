"""Connections to Redis for synchronous and asynchronous code."""

from __future__ import annotations

from functools import cache
from typing import Any

import redis
import redis.asyncio
from django.conf import settings


def sync_redis_client() -> redis.Redis:
    """A new synchronous client; its owner closes it."""
    return redis.Redis.from_url(settings.REDIS_URL)


@cache
def sync_redis() -> redis.Redis:
    """The process-wide synchronous client (its pool is thread-safe)."""
    return sync_redis_client()


def async_redis() -> Any:
    """A new asynchronous client; it belongs to the running event loop and is closed by its owner."""
    return redis.asyncio.Redis.from_url(settings.REDIS_URL)
