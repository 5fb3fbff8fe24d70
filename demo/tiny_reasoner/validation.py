"""How good a checkpoint is: greedy decoding and loss on prompts of the tuning split."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, PreTrainedTokenizerFast, Qwen3ForCausalLM

from demo.tiny_reasoner.batches import IGNORED, collate, make_example
from demo.tiny_reasoner.task import Problem
from demo.tiny_reasoner.tokenizer import PAD, THINK_CLOSE, TOKEN_IDS, TURN_END, encode_prompt

# Longer than any thinking of the task: 7 steps, a draft and 6 checks are about 540 tokens.
MAX_NEW_TOKENS = 600
# Finished rows leave the batch only so often: selecting rows copies the cache.
_COMPACT_EVERY = 8
_TRACE_SEED = 11


class _Rows:
    """The unfinished rows of one batch, with the key-value cache they share."""

    def __init__(self, prompts: Sequence[list[int]]) -> None:
        width = max(map(len, prompts))
        self.indices = list(range(len(prompts)))
        self.tokens: list[list[int]] = [[] for _ in prompts]
        self.input_ids = torch.full((len(prompts), width), TOKEN_IDS[PAD])
        self.mask = torch.zeros(len(prompts), width, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            self.input_ids[row, width - len(prompt) :] = torch.tensor(prompt)
            self.mask[row, width - len(prompt) :] = 1
        self.positions = (self.mask.cumsum(1) - 1).clamp(min=0)
        self.cache = DynamicCache()

    def decode(self, model: Qwen3ForCausalLM) -> None:
        """Append the likeliest token to every row."""
        hidden = model.model(
            input_ids=self.input_ids,
            attention_mask=self.mask,
            position_ids=self.positions,
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        chosen: Tensor = model.lm_head(hidden).argmax(-1)
        for index, token in zip(self.indices, chosen.tolist(), strict=True):
            self.tokens[index].append(token)
        self.input_ids = chosen[:, None]
        self.positions = self.positions[:, -1:] + 1
        self.mask = functional.pad(self.mask, (0, 1), value=1)

    def drop_finished(self) -> None:
        """Take rows that have ended their turn out of the batch."""
        unfinished = [row for row, index in enumerate(self.indices) if TOKEN_IDS[TURN_END] not in self.tokens[index]]
        if len(unfinished) == len(self.indices):
            return
        self.indices = [self.indices[row] for row in unfinished]
        if not unfinished:
            return
        keep = torch.tensor(unfinished)
        self.cache.batch_select_indices(keep)
        self.input_ids = self.input_ids[keep]
        self.mask = self.mask[keep]
        self.positions = self.positions[keep]


@torch.inference_mode()
def decode_greedily(
    model: Qwen3ForCausalLM,
    prompts: Sequence[list[int]],
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_size: int = 128,
) -> list[list[int]]:
    """Completions of encoded prompts, each up to and including ``<|im_end|>`` (or cut at the limit).

    Args:
        model: the model, in inference mode.
        prompts: token ids of each prompt, ``<think>`` included.
        max_new_tokens: limit per completion.
        batch_size: prompts decoded at a time, similar lengths together.
    """
    completions: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        rows = _Rows([prompts[index] for index in batch])
        for step in range(1, max_new_tokens + 1):
            rows.decode(model)
            if step % _COMPACT_EVERY == 0:
                rows.drop_finished()
                if not rows.indices:
                    break
        for index, tokens in zip(batch, rows.tokens, strict=True):
            end = tokens.index(TOKEN_IDS[TURN_END]) + 1 if TOKEN_IDS[TURN_END] in tokens else len(tokens)
            completions[index] = tokens[:end]
    return completions


def answer_of(completion: Sequence[int], tokenizer: PreTrainedTokenizerFast) -> str:
    """The text after the thinking of a completion; empty if the thinking never ends."""
    if TOKEN_IDS[THINK_CLOSE] not in completion:
        return ""
    start = completion.index(TOKEN_IDS[THINK_CLOSE]) + 1
    return str(tokenizer.decode(list(completion[start:]), skip_special_tokens=True)).strip()


def exact_match(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, problems: Sequence[Problem]) -> float:
    """Share of problems that full greedy decoding answers rightly.

    Raises:
        ValueError: there are no problems.
    """
    if not problems:
        raise ValueError("problems must hold at least 1 problem, got 0")
    prompts = [encode_prompt(tokenizer, problem.prompt) for problem in problems]
    completions = decode_greedily(model, prompts)
    right = [
        answer_of(completion, tokenizer) == problem.answer
        for completion, problem in zip(completions, problems, strict=True)
    ]
    return sum(right) / len(right)


@torch.inference_mode()
def mean_loss(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    problems: Sequence[Problem],
    batch_size: int = 16,
) -> float:
    """Mean cross-entropy of thinking and answer tokens over fixed traces of ``problems``, nats per token."""
    rng = random.Random(_TRACE_SEED)
    examples = [make_example(rng, tokenizer, problem, draft_only=False, guess_share=0.0) for problem in problems]
    total, count = 0.0, 0
    for start in range(0, len(examples), batch_size):
        chunk = examples[start : start + batch_size]
        batch = collate(chunk, [[] for _ in chunk])
        logits = model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids
        ).logits
        losses = functional.cross_entropy(
            logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        total += float(losses)
        count += int((batch.labels != IGNORED).sum())
    return total / count
