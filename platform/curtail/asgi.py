"""The ASGI application: the gateway serves /v1, Django everything else."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "curtail.settings")

from django.core.asgi import get_asgi_application

django_application: Any = get_asgi_application()

from experiments.gateway.app import Gateway  # noqa: E402
from experiments.gateway.http import Receive, Scope, Send  # noqa: E402
from experiments.services.off_thread import off_thread  # noqa: E402
from experiments.services.redis_clients import async_redis  # noqa: E402
from experiments.services.routing import load_routing  # noqa: E402
from workers.checkpoints import make_engine, remote_checkpoints  # noqa: E402

gateway = Gateway(async_redis, off_thread(load_routing), off_thread(remote_checkpoints), make_engine)


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Route one connection; start and stop the gateway with the server."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
    elif scope["type"] == "http" and (scope["path"] == "/v1" or scope["path"].startswith("/v1/")):
        await gateway(scope, receive, send)
    else:
        await django_application(scope, receive, send)


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
