"""The ASGI application: the gateway serves /v1 and what operators ask, Django everything else."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "curtail.settings")

from django.core.asgi import get_asgi_application

django_application: Any = get_asgi_application()

from django.conf import settings  # noqa: E402
from django.db import connection  # noqa: E402

from experiments.gateway.access_log import console_logger, json_logger  # noqa: E402
from experiments.gateway.app import Gateway  # noqa: E402
from experiments.gateway.dialect import Dialect, ReasoningField, UnknownParameters  # noqa: E402
from experiments.gateway.http import Receive, Scope, Send  # noqa: E402
from experiments.gateway.limits import Limits  # noqa: E402
from experiments.gateway.operations import PAGES, Options  # noqa: E402
from experiments.services.off_thread import off_thread  # noqa: E402
from experiments.services.redis_clients import async_redis  # noqa: E402
from experiments.services.routing import load_routing  # noqa: E402
from experiments.tracing import configured_tracer  # noqa: E402
from workers.checkpoints import make_engine, remote_checkpoints  # noqa: E402


def _ask_database() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def _options() -> Options:
    logger = json_logger if settings.LOG_FORMAT == "json" else console_logger
    return Options(
        limits=Limits(
            max_queue=settings.MAX_QUEUE,
            max_body_bytes=settings.MAX_BODY_BYTES,
            max_prompt_characters=settings.MAX_PROMPT_CHARACTERS,
            max_concurrency_per_key=settings.MAX_CONCURRENCY_PER_KEY,
            max_open_requests=settings.MAX_OPEN_REQUESTS,
            body_timeout_seconds=settings.BODY_TIMEOUT_SECONDS,
        ),
        dialect=Dialect(
            ReasoningField(settings.REASONING_FIELD),
            UnknownParameters(settings.UNKNOWN_PARAMETERS),
            settings.EFFORT_CAPS,
        ),
        access_logger=logger() if settings.ACCESS_LOG else None,
        tracer=configured_tracer("curtail-gateway"),
        ask_database=off_thread(_ask_database),
        metrics_token=settings.METRICS_TOKEN,
    )


gateway = Gateway(async_redis, off_thread(load_routing), off_thread(remote_checkpoints), make_engine, _options())


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Route one connection; start and stop the gateway with the server."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
    elif scope["type"] == "http" and _is_gateways(scope["path"]):
        await gateway(scope, receive, send)
    else:
        await django_application(scope, receive, send)


def _is_gateways(path: str) -> bool:
    return path.startswith("/v1/") or path == "/v1" or path in PAGES


async def _lifespan(receive: Receive, send: Send) -> None:
    message: Any = await receive()
    try:
        await gateway.start()
    except Exception as error:
        await send({"type": "lifespan.startup.failed", "message": f"the gateway could not start: {error}"})
        return
    await send({"type": "lifespan.startup.complete"})
    while message["type"] != "lifespan.shutdown":
        message = await receive()
    await gateway.stop()
    await send({"type": "lifespan.shutdown.complete"})
