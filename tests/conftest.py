"""Fixtures that every test may use. The servers come from the plugin tests/services.py."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from curtail import env
from curtail.embedded import Services

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Tests that search for counterexamples may search longer."""
    parser.addoption("--long", action="store_true", help="search twenty times as long for inputs that break the API")


@pytest.fixture(scope="session")
def django_db_modify_db_settings(services: Services) -> None:
    """Start the servers before pytest-django creates the test database."""


@pytest.fixture
def redis_client(services: Services) -> Iterator[redis.Redis]:
    """A client (bytes in and out) of the tests' Redis, emptied before and after the test."""
    from django.conf import settings

    with redis.Redis.from_url(settings.REDIS_URL) as client:
        client.flushdb()
        yield client
        client.flushdb()


@pytest.fixture
def child_environment(services: Services, django_db_setup: None) -> dict[str, str]:
    """The environment of a child process that uses the test database, Redis and both import folders."""
    from django.conf import settings

    # Django has put the test database's name into the settings; the environment still names the other one.
    name = settings.DATABASES["default"]["NAME"]
    return {
        **os.environ,
        "DATABASE_URL": env.with_database(os.environ["DATABASE_URL"], name),
        "CURTAIL_HTTPS": "0",
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "platform"))),
    }


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium; skips the test where there is none."""
    for name in CHROMIUM_NAMES:
        path = shutil.which(name)
        if path:
            return path
    pytest.skip(f"no Chromium found (looked for {', '.join(CHROMIUM_NAMES)})")
