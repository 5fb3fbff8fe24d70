"""Requests of the two shells: hand-made batches of both model runners, over one scripted history."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from vllm import SamplingParams
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext, LogitsProcRequestState

from workers.engines.scripted_engine import WordVocabulary
from workers.engines.vllm_engine.plan import ARGUMENT, Plan

CLOSE = "</think>"
WIDTH = 32
MAX_REQUESTS = 4
MAX_LENGTH = 64
# A token that no thought ends with.
FILLER = 20


def vocabulary() -> WordVocabulary:
    """Words 0 to 31: the tags first."""
    words = WordVocabulary(["<think>"], [CLOSE], [])
    words.ids(["stop ", "now", "\n", *(f"w{n} " for n in range(WIDTH))])
    return words


class OneVocabulary:
    """`Vocabularies` of a model whose tokens are words."""

    def __init__(self) -> None:
        self.words = vocabulary()

    def get(self, plan: Plan) -> WordVocabulary:
        """The vocabulary, whatever the tags."""
        return self.words


def params(plan: Plan | None) -> SamplingParams:
    """A request's parameters, its plan as it travels."""
    return SamplingParams(extra_args=None if plan is None else {ARGUMENT: plan.to_json()})


def config(**options: Any) -> Any:
    """What the shells read of vLLM's configuration."""
    return SimpleNamespace(speculative_config=None, **options)


def logits(rows: int, margin: float = 30.0) -> torch.Tensor:
    """float [rows, words]: the filler is the likeliest, the end of thinking lies a margin (nats) below."""
    values = torch.full((rows, WIDTH), -60.0)
    values[:, 0] = -50.0
    values[:, vocabulary().close_ids[0]] = -margin
    values[:, FILLER] = 0.0
    return values


def forced(row: torch.Tensor) -> int | None:
    """The only token that may come, or None."""
    (places,) = row.isfinite().nonzero(as_tuple=True)
    return int(places[0]) if len(places) == 1 else None


@dataclass
class SecondRunner:
    """The buffers of the second model runner, by slot.

    Attributes:
        states: what a processor is given.
    """

    states: LogitsProcRequestState = field(init=False)

    def __post_init__(self) -> None:
        def backed() -> Any:
            return SimpleNamespace(np=np.zeros(MAX_REQUESTS, dtype=np.int32))

        self.states = LogitsProcRequestState(
            device=torch.device("cpu"),
            max_num_reqs=MAX_REQUESTS,
            vocab_size=WIDTH,
            all_token_ids=SimpleNamespace(gpu=torch.zeros(MAX_REQUESTS, MAX_LENGTH, dtype=torch.int32)),  # type: ignore[arg-type]
            prompt_len=backed(),
            prefill_len=backed(),
            total_len=SimpleNamespace(gpu=torch.zeros(MAX_REQUESTS, dtype=torch.int32)),  # type: ignore[arg-type]
        )

    def fill(self, slot: int, prompt: list[int], own: list[int]) -> None:
        """Put a request into a slot, as it is (re)filled."""
        tokens = [*prompt, *own]
        self.states.prompt_len.np[slot] = len(prompt)
        self.states.prefill_len.np[slot] = len(tokens)
        self.states.all_token_ids.gpu[slot].fill_(-7)  # what must not be read
        self.states.all_token_ids.gpu[slot, : len(tokens)] = torch.tensor(tokens, dtype=torch.int32)

    def append(self, slot: int, length: int, token: int) -> None:
        """Write the token after so many."""
        self.states.all_token_ids.gpu[slot, length] = token

    def context(self, lengths: dict[int, int]) -> LogitsContext:
        """A step of some slots, in this order, with so many tokens visible to each."""
        slots = np.array(list(lengths), dtype=np.int32)
        mapping = torch.from_numpy(slots)
        visible = np.array(list(lengths.values()), dtype=np.int32)
        position = torch.from_numpy(visible - 1)
        return LogitsContext(mapping, mapping, slots, torch.zeros_like(mapping), position, position, visible)
