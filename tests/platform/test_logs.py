"""Log records as JSON, and the settings that choose the form."""

from __future__ import annotations

import json
import logging
from contextvars import copy_context
from pathlib import Path

import pytest

from curtail import logs
from experiments.gateway.access_log import console_logger, write_line
from experiments.gateway.observing import begin
from tests.platform.test_settings import load, run


def record(message: str, exception: BaseException | None = None) -> logging.LogRecord:
    found = (type(exception), exception, None) if exception is not None else None
    return logging.LogRecord("some.part", logging.WARNING, "file.py", 1, message, ("x",), found)


def as_json(entry: logging.LogRecord) -> dict[str, str]:
    line = logs.json_formatter().format(entry)
    assert "\n" not in line
    return json.loads(line)


def test_a_record_becomes_one_json_object() -> None:
    found = as_json(record("%s went wrong"))
    assert (found["event"], found["level"], found["logger"]) == ("x went wrong", "warning", "some.part")
    assert found["timestamp"].endswith("Z")


def test_an_exception_stays_on_its_line() -> None:
    assert "ValueError: bad" in as_json(record("%s", ValueError("bad")))["exception"]


def test_a_record_names_the_request_that_is_served() -> None:
    context = copy_context()
    seen = context.run(begin, {"method": "POST", "path": "/v1/models", "headers": []})
    assert context.run(as_json, record("%s"))["request_id"] == seen.own_id()
    assert "request_id" not in as_json(record("%s"))


def test_the_console_line_can_not_be_forged(caplog: pytest.LogCaptureFixture) -> None:
    seen = copy_context().run(begin, {"method": "GET", "path": "/v1/a\nforged", "headers": []})
    seen.code, seen.status = "not_found", 404
    with caplog.at_level(logging.INFO, "curtail.access"):
        write_line(console_logger(), seen, 0.25)
    (line,) = caplog.messages
    assert "\n" not in line
    assert "status=404 outcome='refused' seconds=0.25" in line


def test_the_form_is_chosen_by_the_environment(tmp_path: Path) -> None:
    assert load("s.LOGGING['formatters']['line'].get('()') is not None", tmp_path, CURTAIL_LOG_FORMAT="json")
    assert not load("s.LOGGING['formatters']['line'].get('()') is not None", tmp_path)


def test_an_unknown_form_ends_the_start_with_one_line(tmp_path: Path) -> None:
    result = run(tmp_path, "manage.py", "check", CURTAIL_LOG_FORMAT="xml")
    assert result.returncode != 0
    assert "CURTAIL_LOG_FORMAT must be console or json, got 'xml'" in result.stderr
