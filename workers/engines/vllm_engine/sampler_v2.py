"""The shell over `in_place` for vLLM's second model runner (the default on GPUs).

Written against vLLM 0.32: ``vllm.v1.worker.gpu.sample.logits_processor.interface``. Tokens live on the device there: a
control is asked by the number of its tokens alone until it wakes, and only then are tokens fetched.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from vllm.config import VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcessor, LogitsProcRequestState

from workers.engines.vllm_engine import lifeline
from workers.engines.vllm_engine.in_place import Control, Row, apply
from workers.engines.vllm_engine.joining import join
from workers.engines.vllm_engine.plan import Plan
from workers.engines.vllm_engine.vocabularies import Vocabularies


class InPlaceExits(LogitsProcessor):
    """Ends thinking in place; one per sampler."""

    def __init__(self, vllm_config: VllmConfig, req_states: LogitsProcRequestState) -> None:
        if vllm_config.speculative_config is not None:
            raise ValueError("thinking is not ended in place with speculative decoding: a step has several tokens")
        lifeline.hold()
        self._vocabularies = Vocabularies.of(vllm_config)
        self._states = req_states
        self._controls: dict[int, Control] = {}

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse an unusable plan when the request comes in."""
        Plan.from_arguments(sampling_params.extra_args)

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        brought = int(self._states.prefill_len.np[req_idx]) - int(self._states.prompt_len.np[req_idx])
        control = join(sampling_params.extra_args, self._vocabularies, brought)
        if control is None:
            self._controls.pop(req_idx, None)  # the slot's former request
            return False
        self._controls[req_idx] = control
        return True

    def apply(self, logits: torch.Tensor, ctx: LogitsContext) -> torch.Tensor:
        rows: list[Row] = []
        for index, slot in enumerate(ctx.idx_mapping_np.tolist()):
            control = self._controls.get(slot)
            if control is None:
                continue
            length = int(ctx.seq_lens_upper_bound_np[index])
            # What is fed in parts (a prompt; after a preemption the own tokens too) has no next token before its end.
            if length >= self._states.prefill_len.np[slot]:
                rows.append(Row(index, control, length - int(self._states.prompt_len.np[slot])))
        slots = ctx.idx_mapping_np

        def fetch(row: Row, start: int, end: int) -> Sequence[int]:
            if start >= end:
                return []
            slot = int(slots[row.index])
            first = int(self._states.prompt_len.np[slot])
            tokens: list[int] = self._states.all_token_ids.gpu[slot, first + start : first + end].tolist()
            return tokens

        return apply(logits, rows, fetch)
