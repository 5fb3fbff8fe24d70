"""An installation for a benchmark: PostgreSQL and Redis of its own in a temporary folder, which goes with it."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def temporary_installation(*, durable: bool, **environment: str) -> Iterator[None]:
    """Servers that run while the block lasts; Django's settings, not loaded yet, point to them.

    Args:
        durable: whether writes survive a crash, as in production.
        environment: further variables.
    """
    sys.path[:0] = [str(ROOT), str(ROOT / "platform")]
    from curtail.embedded import embedded_addresses, embedded_services, socket_folder

    home = Path(tempfile.mkdtemp(prefix="curtail-bench-"))
    addresses = embedded_addresses(socket_folder(home))
    os.environ |= {
        "CURTAIL_HOME": str(home),
        "DATABASE_URL": addresses.database_url,
        "REDIS_URL": addresses.redis_url,
        "DJANGO_SETTINGS_MODULE": "curtail.settings",
        **environment,
    }
    try:
        with embedded_services(home, durable=durable):
            yield
    finally:
        shutil.rmtree(home, ignore_errors=True)
