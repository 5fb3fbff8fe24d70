"""Whether this process can do its work: for load balancers and `docker compose`."""

from __future__ import annotations

from collections.abc import Callable

import redis
from django.conf import settings
from django.db import DatabaseError, connection
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

PATIENCE_SECONDS = 2.0


@never_cache
@require_safe
def healthz(request: HttpRequest) -> JsonResponse:
    """200 when the database and Redis answer, else 503 with what does not. No login, no addresses."""
    checks = {"database": _works(_ask_database), "redis": _works(_ask_redis)}
    healthy = all(checks.values())
    body = {"status": "ok" if healthy else "unavailable"}
    body |= {name: "ok" if works else "no answer" for name, works in checks.items()}
    return JsonResponse(body, status=200 if healthy else 503)


def _works(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except (DatabaseError, redis.RedisError, OSError):
        return False
    return True


def _ask_database() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def _ask_redis() -> None:
    # A client of its own: who asks for health must not wait behind the others, nor for long.
    with redis.Redis.from_url(settings.REDIS_URL, socket_timeout=PATIENCE_SECONDS) as client:
        client.ping()
