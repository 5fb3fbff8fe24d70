"""The web server: uvicorn that drains on SIGTERM, ``python -m curtail.web_server --host 0.0.0.0 --port 8000``.

uvicorn alone closes its sockets at the first signal, waits without end for open streams, and ends by the signal.
"""

from __future__ import annotations

import asyncio
import gc
import os
from types import FrameType
from typing import Any

import click
import uvicorn

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "curtail.settings")

# For requests to Django's pages, once the gateway is empty.
PAGES_GRACE_SECONDS = 5


class DrainingServer(uvicorn.Server):
    """Stays reachable while the gateway drains, so that load balancers read why; then ends with status 0.

    A second signal ends it without waiting.

    Args:
        config: of uvicorn.
        gateway: whose requests are waited for.
        seconds: how long at most.
    """

    def __init__(self, config: uvicorn.Config, gateway: Any, seconds: float) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._seconds = seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: Any = None) -> None:
        """As uvicorn does; remember the loop for the signal handler."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: drain. Second, or before the start is done: end."""
        if self._loop is None or not self.started or self._gateway.operations.gate.draining:
            self.should_exit = True
            self.force_exit = self.started
            return
        self._gateway.operations.gate.draining = True
        # A signal does not wake a waiting loop by itself.
        self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        self._draining = asyncio.create_task(self._drain_then_exit())

    async def _drain_then_exit(self) -> None:
        try:
            await self._gateway.drain(self._seconds)
        finally:
            self.should_exit = True


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65_535), help="Port to listen on.")
def main(host: str, port: int) -> None:
    """Serve the gateway and the pages until SIGTERM or Ctrl-C."""
    import django

    django.setup()
    from django.conf import settings

    from curtail import asgi

    config = uvicorn.Config(
        asgi.application,
        host=host,
        port=port,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=PAGES_GRACE_SECONDS,
        log_config=None,
    )
    # What is loaded by now stays: a full collection would go over all of Django while every stream waits.
    gc.collect()
    gc.freeze()
    server = DrainingServer(config, asgi.gateway, settings.DRAIN_SECONDS)
    server.run()
    if not server.started:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
