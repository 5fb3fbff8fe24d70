"""What a deployment's settings and responses protect."""

from __future__ import annotations

import secrets
import subprocess
import sys

import pytest
from django.test import Client

from tests.conftest import ROOT


def test_djangos_deployment_check_finds_nothing_under_production_settings(child_environment: dict[str, str]) -> None:
    production = {
        "CURTAIL_DEBUG": "0",
        "CURTAIL_HTTPS": "1",
        "CURTAIL_HTTPS_REDIRECT": "1",
        "CURTAIL_HSTS_SECONDS": "3600",
        "CURTAIL_BEHIND_TLS_PROXY": "1",
        "CURTAIL_ALLOWED_HOSTS": "curtail.example",
        "CURTAIL_SECRET_KEY": secrets.token_urlsafe(50),
    }
    check = subprocess.run(
        [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"],
        cwd=ROOT,
        env=child_environment | production,
        capture_output=True,
        text=True,
        check=False,
    )
    assert check.returncode == 0, check.stderr


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/login/", "/api/v1/openapi.json", "/no-such-page"])
def test_no_response_allows_inline_or_foreign_scripts(client: Client, path: str) -> None:
    policy = client.get(path).headers["Content-Security-Policy"].split("; ")
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in "".join(policy)
