"""The examples of docs/serving_elsewhere.md, run as they stand."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis

from experiments.models import Completion, UseCase
from experiments.services.registry import issue_api_key
from tests.api.elsewhere import recorded

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("fresh_routing")]
PAGE = Path(__file__).resolve().parents[2] / "docs" / "serving_elsewhere.md"


def _example(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return str(found)


def _run(command: list[str], use_case: UseCase, url: str) -> str:
    token = issue_api_key("ada", "docs", use_case, ["serve"]).token
    environment = {**os.environ, "CURTAIL_URL": url, "CURTAIL_KEY": token}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl found")
def test_the_curl_example_assigns(redis_client: redis.Redis, live_server: Any, use_case: UseCase) -> None:
    answer = json.loads(_run(["bash", "-c", _example("bash")], use_case, live_server.url))
    (record,) = recorded(redis_client)
    assert (record.id, record.segment, record.reference) == (answer["id"], "batch", "42")
    assert record.deadline_at - record.admitted_at == pytest.approx(3600)


def test_the_python_example_posts_completions_twice(
    redis_client: redis.Redis, live_server: Any, use_case: UseCase
) -> None:
    out = _run([sys.executable, "-c", _example("python")], use_case, live_server.url)
    assert out.splitlines() == [
        "{'accepted': 3, 'duplicates': 0, 'refused': 0, 'errors': []}",
        "{'accepted': 0, 'duplicates': 3, 'refused': 0, 'errors': []}",
    ]
    assert Completion.objects.filter(answer="42", thinking_tokens=310).count() == 3
