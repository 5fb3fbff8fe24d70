"""Each numbered system check finds what it is for, and is silent otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.core.checks import registry, run_checks
from django.test import override_settings

from curtail import checks


def ids(messages: list[checks.CheckMessage]) -> list[str | None]:
    return [message.id for message in messages]


@pytest.fixture
def platform_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "platform"
    folder.mkdir()
    return folder


def test_e001_finds_a_package_named_platform(platform_folder: Path) -> None:
    with override_settings(BASE_DIR=platform_folder.parent):
        assert checks.platform_is_no_package(None) == []
        (platform_folder / "__init__.py").touch()
        assert ids(checks.platform_is_no_package(None)) == ["curtail.E001"]


def test_e002_finds_a_module_that_shadows_pythons_own(platform_folder: Path) -> None:
    (platform_folder / "curtail").mkdir()
    with override_settings(BASE_DIR=platform_folder.parent):
        assert checks.platform_shadows_nothing(None) == []
        (platform_folder / "types.py").touch()
        assert ids(checks.platform_shadows_nothing(None)) == ["curtail.E002"]


def test_e003_finds_another_database(monkeypatch: pytest.MonkeyPatch) -> None:
    from django.conf import settings

    assert checks.database_is_postgresql(None) == []
    monkeypatch.setitem(settings.DATABASES["default"], "ENGINE", "django.db.backends.sqlite3")
    assert ids(checks.database_is_postgresql(None)) == ["curtail.E003"]


@pytest.mark.parametrize("key", ["short", "a" * 50])
def test_e004_finds_a_weak_secret_key(key: str) -> None:
    with override_settings(SECRET_KEY=key, DEBUG=False):
        assert ids(checks.secret_key_is_strong(None)) == ["curtail.E004"]


def test_e004_lets_a_weak_key_pass_while_debugging() -> None:
    with override_settings(SECRET_KEY="short", DEBUG=True):
        assert checks.secret_key_is_strong(None) == []


def test_e004_does_not_print_the_key() -> None:
    with override_settings(SECRET_KEY="hunter2", DEBUG=False):
        assert "hunter2" not in str(checks.secret_key_is_strong(None))


@pytest.mark.parametrize(("host", "expected"), [("localhost", []), ("curtail.example", ["curtail.W001"])])
def test_w001_finds_public_hosts_without_https(host: str, expected: list[str]) -> None:
    with override_settings(ALLOWED_HOSTS=[host], SESSION_COOKIE_SECURE=False, DEBUG=False):
        assert ids(checks.cookies_are_safe(None)) == expected


def test_w001_is_silent_with_https() -> None:
    with override_settings(ALLOWED_HOSTS=["curtail.example"], SESSION_COOKIE_SECURE=True, DEBUG=False):
        assert checks.cookies_are_safe(None) == []


def test_our_settings_pass_all_checks() -> None:
    assert run_checks(tags=[checks.TAG]) == []


@pytest.mark.parametrize(
    "check",
    [
        checks.platform_is_no_package,
        checks.platform_shadows_nothing,
        checks.database_is_postgresql,
        checks.secret_key_is_strong,
        checks.cookies_are_safe,
    ],
)
def test_every_check_is_registered(check: object) -> None:
    assert check in registry.registry.get_checks()
