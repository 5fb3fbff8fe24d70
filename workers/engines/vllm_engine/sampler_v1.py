"""The shell over `in_place` for vLLM's first model runner (the one that CPUs use).

Written against vLLM 0.32: ``vllm.v1.sample.logits_processor.interface``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from vllm.config import VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from workers.engines.vllm_engine import lifeline
from workers.engines.vllm_engine.in_place import Control, Row, apply
from workers.engines.vllm_engine.joining import join
from workers.engines.vllm_engine.plan import Plan
from workers.engines.vllm_engine.vocabularies import Vocabularies


@dataclass(slots=True)
class _Held:
    """A control and vLLM's own, growing list of the request's tokens."""

    control: Control
    output: Sequence[int]


class InPlaceExits(LogitsProcessor):
    """Ends thinking in place; one per sampler."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        lifeline.hold()
        self._vocabularies = Vocabularies.of(vllm_config)
        self._held: dict[int, _Held] = {}

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse an unusable plan when the request comes in."""
        Plan.from_arguments(sampling_params.extra_args)

    def is_argmax_invariant(self) -> bool:
        """False: greedy requests would skip it otherwise."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        process_dict_updates(self._held, batch_update, self._join)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        if not self._held:
            return logits
        rows = [Row(index, held.control, len(held.output)) for index, held in self._held.items()]
        return apply(logits, rows, self._tokens)

    def _join(self, params: SamplingParams, prompt: list[int] | None, output: list[int]) -> _Held | None:
        control = join(params.extra_args, self._vocabularies, len(output))
        return None if control is None else _Held(control, output)

    def _tokens(self, row: Row, start: int, end: int) -> Sequence[int]:
        return self._held[row.index].output[start:end]
