"""From a registered checkpoint to the engine that serves it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from workers.checkpoints import make_engine
from workers.engines.base import EngineError, ThinkingProfile
from workers.engines.openai_engine.engine import OpenAIEngine
from workers.served import ServedCheckpoint

VARIABLE = "TEST_REMOTE_KEY"


def remote(folder: Path, **described: Any) -> ServedCheckpoint:
    """A checkpoint whose folder describes a server."""
    (folder / "server.json").write_text(json.dumps({"base_url": "https://x/v1", "model": "m"} | described))
    return ServedCheckpoint(1, "m/release", str(folder), "openai", ThinkingProfile())


def test_a_folder_with_a_server_is_served_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "sk-1")
    assert isinstance(make_engine(remote(tmp_path, api_key_variable=VARIABLE)), OpenAIEngine)


def test_a_key_that_is_not_set_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(EngineError, match=f"{VARIABLE} must hold the API key of m/release"):
        make_engine(remote(tmp_path, api_key_variable=VARIABLE))


def test_a_folder_without_a_server_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"cannot read server\.json"):
        make_engine(ServedCheckpoint(1, "m/release", str(tmp_path), "openai", ThinkingProfile()))
