"""The shipped tiny reasoner: fixtures for the folders that import them, and prompts for the engines' contract."""

from __future__ import annotations

from typing import Any

import pytest

from demo.scenario import MODEL_PROFILE
from demo.tiny_reasoner.checkpoints import read_index
from demo.tiny_reasoner.task import Problem, Split, held_out_problems
from workers.engines.base import ThinkingProfile

PROMPTS = tuple(problem.prompt for problem in held_out_problems(12, seed=77, split=Split.TUNING))
# Words of its vocabulary.
WRAP_UP = "check\n"


@pytest.fixture(scope="session")
def checkpoint_path() -> str:
    """Folder of the last shipped checkpoint."""
    return str(read_index()[-1].path)


@pytest.fixture(scope="session")
def model(checkpoint_path: str) -> Any:
    """The model, for reference computations beside the engine."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(checkpoint_path, dtype="float32").eval()


@pytest.fixture(scope="session")
def tokenizer(checkpoint_path: str) -> Any:
    """Its tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(checkpoint_path)


@pytest.fixture(scope="session")
def profile() -> ThinkingProfile:
    """How the tiny reasoner thinks."""
    return ThinkingProfile(
        step_boundary=MODEL_PROFILE["step_boundary"],
        max_trial_tokens=MODEL_PROFILE["max_trial_tokens"],
        max_context_tokens=MODEL_PROFILE["max_context_tokens"],
    )


@pytest.fixture(scope="session")
def problems() -> list[Problem]:
    """A few prompts that training never saw."""
    return list(held_out_problems(12, seed=77, split=Split.TUNING))
