"""A pytest plugin (``-p tests.services``): the session's own PostgreSQL and Redis.

The addresses are set before Django's settings load; the servers start when the first test needs them and
stop with the session, also on Ctrl-C and on failure. DATABASE_URL and REDIS_URL of the environment are used
instead where they are set.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parents[1]
for _folder in (str(ROOT / "platform"), str(ROOT)):
    if _folder not in sys.path:
        sys.path.insert(0, _folder)

from curtail.embedded import (  # noqa: E402
    ServiceError,
    Services,
    embedded_addresses,
    embedded_services,
    socket_folder,
)

_HOME = pytest.StashKey[Path]()
_GIVEN = pytest.StashKey[dict[str, str]]()
_NAMES = ("DATABASE_URL", "REDIS_URL")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None]:
    """Name the servers before pytest-django loads the settings."""
    home = Path(tempfile.mkdtemp(prefix="curtail-test-"))
    early_config.stash[_HOME] = home
    early_config.stash[_GIVEN] = {name: os.environ[name] for name in _NAMES if os.environ.get(name)}
    own = embedded_addresses(socket_folder(home))
    os.environ["CURTAIL_HOME"] = str(home)
    # Tensors here are tiny: threads that wait for each other at every operation, on cores that servers and a
    # browser also use, make the tests many times slower.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("DATABASE_URL", own.database_url)
    os.environ.setdefault("REDIS_URL", own.redis_url)
    # A terminated run must stop its servers as an interrupted one does.
    signal.signal(signal.SIGTERM, _as_interrupt)
    return (yield)


def _as_interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the session's CURTAIL_HOME, whose servers have stopped."""
    shutil.rmtree(config.stash[_HOME], ignore_errors=True)


@pytest.fixture(scope="session")
def services(pytestconfig: pytest.Config) -> Iterator[Services]:
    """The running servers; ask for it where a test connects by the environment's addresses."""
    given = pytestconfig.stash[_GIVEN]
    if "REDIS_URL" in given:
        _refuse_used_redis(given["REDIS_URL"])
    with embedded_services(
        pytestconfig.stash[_HOME],
        database_url=given.get("DATABASE_URL"),
        redis_url=given.get("REDIS_URL"),
        durable=False,
    ) as running:
        yield running


def _refuse_used_redis(url: str) -> None:
    """Refuse a Redis that holds somebody's data: the tests empty it.

    Raises:
        ServiceError: if the database is not empty.
    """
    import redis

    from curtail import env

    with redis.Redis.from_url(env.redis_client_url("REDIS_URL", url)) as client:
        count = client.dbsize()
    if count:
        raise ServiceError(f"REDIS_URL names a database with {count} keys, and the tests empty it; name an empty one")
