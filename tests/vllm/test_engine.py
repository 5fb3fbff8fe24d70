"""The vLLM engine keeps the contract of all engines."""

from __future__ import annotations

from tests.engines.contract import EngineContract
from tests.tiny_reasoner import PROMPTS, WRAP_UP


class TestContract(EngineContract):
    prompts = PROMPTS
    wrap_up = WRAP_UP
    lag = 24
    too_long = 100
