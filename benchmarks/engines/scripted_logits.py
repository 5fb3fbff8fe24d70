"""Long thoughts on a real engine: a logits processor for vLLM that makes any weights play a script.

Whatever the weights say, thinking goes on for so many tokens and then ends, and the answer that would be given changes
until it settles. Everything else is the engine's real work: prefill, attention over thousands of positions, sampling,
the prefix cache. The script depends on the tokens of a request alone, so that branches and re-issued requests play on.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from vllm.config import VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

# Set in the environment, because it is read in vLLM's own process: thinking tokens, and where the answer settles.
LENGTH, SETTLES = "CURTAIL_SCRIPT_LENGTH", "CURTAIL_SCRIPT_SETTLES"


@dataclass(slots=True)
class _Played:
    """Where one request is in the script.

    Attributes:
        before: tokens of the thought that its prompt holds.
        closed: tokens of the thought when it was closed; None: it goes on.
        output: vLLM's own, growing list of its tokens.
    """

    before: int
    closed: int | None
    output: list[int]


class ScriptedLogits(LogitsProcessor):
    """Forces each next token of every request."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(vllm_config.model_config.tokenizer)
        self._length, self._settles = int(os.environ[LENGTH]), int(os.environ[SETTLES])
        ids: dict[str, int] = tokenizer.get_vocab()
        self._open, self._close, self._line = ids["<think>"], ids["</think>"], ids["\n"]
        self._numbers = [ids[str(n)] for n in range(20)]
        self._end = int(tokenizer.eos_token_id)
        self._requests: dict[int, _Played] = {}

    def is_argmax_invariant(self) -> bool:
        """False: everything is forced."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        process_dict_updates(self._requests, batch_update, self._join)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        rows = list(self._requests)
        tokens = [self._next(self._requests[row]) for row in rows]
        index = torch.tensor(rows, device=logits.device)
        logits[index] = -10.0
        logits[index, torch.tensor(tokens, device=logits.device)] = 10.0
        return logits

    def _join(self, params: SamplingParams, prompt: list[int] | None, output: list[int]) -> _Played:
        prompt = prompt or []
        begins = prompt.index(self._open) + 1 if self._open in prompt else len(prompt)
        thought = prompt[begins:]
        closed = thought.index(self._close) if self._close in thought else None
        return _Played(len(thought), closed, output)

    def _next(self, played: _Played) -> int:
        if played.closed is None and self._close in played.output:
            played.closed = played.before + played.output.index(self._close)
        at = played.before + len(played.output)
        if played.closed is None:
            if at >= self._length:
                return self._close
            return self._line if at % 8 == 7 else self._numbers[at % 20]
        if at - played.closed > 1:
            return self._end
        settled = played.closed >= self._settles
        return self._numbers[7 if settled else (played.closed // 32) % 20]
