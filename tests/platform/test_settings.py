"""The settings as a process sees them, and manage.py's clear lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from curtail import embedded

ROOT = Path(__file__).resolve().parents[2]
PRINT = "import json; from curtail import settings as s; print(json.dumps({}, default=str))"


def load(expression: str, home: Path, **environment: str) -> Any:
    """Import the settings in a fresh interpreter and return the value of an expression over ``s``."""
    result = run(home, "-c", PRINT.format(expression), **environment)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def run(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CURTAIL_", "DJANGO_")) and name not in ("DATABASE_URL", "REDIS_URL")
    }
    path = os.pathsep.join((str(ROOT), str(ROOT / "platform")))
    variables = {**kept, "PYTHONPATH": path, "CURTAIL_HOME": str(home), **environment}
    argv = [sys.executable, *arguments]
    return subprocess.run(argv, capture_output=True, text=True, env=variables, cwd=ROOT, check=False)


def test_without_configuration_the_addresses_are_the_embedded_servers(tmp_path: Path) -> None:
    expected = embedded.embedded_addresses(tmp_path / "run")
    assert load("[s.DATABASE_URL, s.REDIS_URL]", tmp_path) == [expected.database_url, expected.redis_url]
    assert load("s.DATABASES['default']['HOST']", tmp_path) == str(tmp_path / "run")


def test_the_owners_addresses_are_read(tmp_path: Path) -> None:
    (tmp_path / "services.json").write_text('{"database_url": "postgresql:///x", "redis_url": "unix:///r"}')
    assert load("[s.DATABASE_URL, s.REDIS_URL]", tmp_path) == ["postgresql:///x", "unix:///r?db=0"]


def test_configured_addresses_win(tmp_path: Path) -> None:
    addresses = {"DATABASE_URL": "postgresql://me@db/curtail", "REDIS_URL": "redis://cache/1"}
    assert load("[s.DATABASE_URL, s.REDIS_URL, s.CELERY_BROKER_URL]", tmp_path, **addresses) == [
        "postgresql://me@db/curtail",
        "redis://cache/1",
        "redis://cache/1",
    ]


def test_the_secret_key_is_made_once_and_private(tmp_path: Path) -> None:
    first = load("s.SECRET_KEY", tmp_path / "home")
    assert len(first) >= 50
    assert load("s.SECRET_KEY", tmp_path / "home") == first
    assert (tmp_path / "home" / "secret_key").stat().st_mode & 0o777 == 0o600


def test_the_secret_key_of_the_environment_leaves_no_file(tmp_path: Path) -> None:
    assert load("s.SECRET_KEY", tmp_path, CURTAIL_SECRET_KEY="given") == "given"
    assert not (tmp_path / "secret_key").exists()


@pytest.mark.parametrize(
    ("environment", "secure"), [({}, True), ({"CURTAIL_DEBUG": "1"}, False), ({"CURTAIL_HTTPS": "0"}, False)]
)
def test_cookies_are_secure_unless_debugging_or_told(tmp_path: Path, environment: dict[str, str], secure: bool) -> None:
    assert load("[s.SESSION_COOKIE_SECURE, s.CSRF_COOKIE_SECURE]", tmp_path, **environment) == [secure] * 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CURTAIL_DEBUG", "perhaps"),
        ("CURTAIL_CONN_MAX_AGE", "-1"),
        ("CURTAIL_LOG_LEVEL", "LOUD"),
        ("DATABASE_URL", "sqlite:///x"),
        ("REDIS_URL", "http://x"),
    ],
)
def test_a_wrong_variable_ends_manage_with_one_line(tmp_path: Path, name: str, value: str) -> None:
    result = run(tmp_path, "manage.py", "check", **{name: value})
    assert result.returncode == 2
    assert result.stderr.startswith(f"curtail: {name} must ")
    assert value in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_home_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run(tmp_path / "file", "manage.py", "check")
    assert result.returncode == 2
    assert result.stderr.startswith("curtail: CURTAIL_SECRET_KEY is unset and no key can be kept in")
    assert result.stderr.count("\n") == 1


def test_manage_outside_the_environment_is_one_line(tmp_path: Path) -> None:
    # -S leaves out site-packages, as a Python without Django does.
    result = run(tmp_path, "-S", "manage.py", "check", PYTHONPATH="")
    assert result.returncode == 2
    assert result.stderr.startswith("curtail: django is missing in ")
    assert result.stderr.count("\n") == 1
