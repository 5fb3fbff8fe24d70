"""One vLLM for all tests of this folder; without vLLM there is nothing to collect."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.tiny_reasoner import checkpoint_path, profile
from workers.engines.base import ThinkingProfile
from workers.engines.vllm_engine.engine import VLLMEngine, VLLMOptions

__all__ = ["checkpoint_path", "profile"]

collect_ignore_glob = [] if importlib.util.find_spec("vllm") else ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """AsyncLLM lives in one event loop: all tests of this folder share the session's."""
    for item in items:
        if item.path.parent.name == "vllm" and inspect.iscoroutinefunction(getattr(item, "function", None)):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def engine(checkpoint_path: str, profile: ThinkingProfile) -> AsyncIterator[VLLMEngine]:
    engine = VLLMEngine(checkpoint_path, profile, VLLMOptions(dtype="float32", max_concurrency=32, log_stats=True))
    await engine.start()
    yield engine
    await engine.close()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def continuing(checkpoint_path: str, profile: ThinkingProfile) -> AsyncIterator[VLLMEngine]:
    """The fallback: exits abort the request and continue it behind its end of thinking."""
    options = VLLMOptions(dtype="float32", max_concurrency=32, in_place=False)
    engine = VLLMEngine(checkpoint_path, profile, options)
    await engine.start()
    yield engine
    await engine.close()
