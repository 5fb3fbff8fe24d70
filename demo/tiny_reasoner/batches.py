"""Training batches: thinking with trial answers branching off it, in one forward pass.

A trial answer is what the model says when its thinking is cut: ``</think>``, a number, ``<|im_end|>``.
To train it, branches of these three tokens are laid behind each sequence. A 4-D attention mask lets a
branch see the sequence up to its branch point and itself, nothing else, and its positions continue from
there: the logits are those of a truncated copy of the sequence, at a fraction of the price.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from demo.tiny_reasoner.reasoning import reasoning_trace
from demo.tiny_reasoner.task import Problem, sample_training_problem
from demo.tiny_reasoner.tokenizer import PAD, THINK_CLOSE, TOKEN_IDS, TURN_END, encode, encode_prompt

IGNORED = -100
BRANCH_TOKENS = 3
# Batches are cut from a sorted pool of so many, so that sequences of one batch are of similar length.
_POOL_BATCHES = 8


@dataclass(frozen=True, slots=True)
class BranchPoint:
    """A place where thinking may be cut.

    Attributes:
        index: index in the sequence of the last token before the cut.
        target: token id of the answer that is right to give there.
    """

    index: int
    target: int


@dataclass(frozen=True, slots=True)
class Example:
    """One training sequence.

    Attributes:
        tokens: prompt, thinking and (unless it is a draft only) the answer.
        prompt_length: number of tokens up to and including ``<think>``; they are not trained on.
        boundaries: cuts at step boundaries, the one before the first thinking token included.
        inside: cuts within a line, as a hard token budget makes them.
    """

    tokens: list[int]
    prompt_length: int
    boundaries: list[BranchPoint]
    inside: list[BranchPoint]


@dataclass(frozen=True, slots=True)
class Batch:
    """Tensors of one forward pass; T = longest sequence + branches.

    Attributes:
        input_ids: (batch, T) token ids.
        labels: (batch, T) id of the token that follows, ``IGNORED`` where none is trained on.
        position_ids: (batch, T).
        attention_mask: (batch, 1, T, T), True where the row may look at the column.
        sequence_length: columns from here on are branches.
    """

    input_ids: Tensor
    labels: Tensor
    position_ids: Tensor
    attention_mask: Tensor
    sequence_length: int


def make_example(
    rng: random.Random,
    tokenizer: PreTrainedTokenizerFast,
    problem: Problem,
    *,
    draft_only: bool,
    guess_share: float,
) -> Example:
    """A training sequence for one problem, with every place where it may be cut.

    Args:
        rng: decides slips and guesses.
        tokenizer: the tokenizer.
        problem: the problem.
        draft_only: end after the draft, without an answer.
        guess_share: before the draft is complete, the probability that the target of a cut is the last value
            written rather than the true answer. With true answers alone every early trial answer would be the
            same unconditional guess, and look like convergence.
    """
    answer = TOKEN_IDS[problem.answer]
    tokens = encode_prompt(tokenizer, problem.prompt)
    prompt_length = len(tokens)
    written = TOKEN_IDS[str(problem.start)]

    def target() -> int:
        return written if drafting and rng.random() < guess_share else answer

    drafting = True
    boundaries, inside = [BranchPoint(prompt_length - 1, target())], []
    for number, line in enumerate(reasoning_trace(rng, problem, draft_only)):
        line_tokens = encode(tokenizer, line.text)
        before_last = len(tokens) + len(line_tokens) - 2
        inside += [BranchPoint(index, target()) for index in range(len(tokens), before_last)]
        # A draft line ends in its value and the newline: until they stand there, the line before is what is known.
        if line.value is not None:
            written = TOKEN_IDS[str(line.value)]
            drafting = drafting and number < problem.steps
        inside.append(BranchPoint(before_last, target()))
        tokens += line_tokens
        boundaries.append(BranchPoint(len(tokens) - 1, target()))
    if not draft_only:
        tokens += [TOKEN_IDS[THINK_CLOSE], answer, TOKEN_IDS[TURN_END]]
    return Example(tokens, prompt_length, boundaries, inside)


def choose_cuts(rng: random.Random, example: Example, count: int, inside_share: float) -> list[BranchPoint]:
    """``count`` branch points: step boundaries (distinct, if there are enough), some moved inside a line."""
    if len(example.boundaries) >= count:
        chosen = rng.sample(example.boundaries, count)
    else:
        chosen = rng.choices(example.boundaries, k=count)
    return [rng.choice(example.inside) if rng.random() < inside_share else point for point in chosen]


def collate(examples: list[Example], cuts: list[list[BranchPoint]]) -> Batch:
    """Tensors for sequences and their branches.

    Args:
        examples: the sequences; shorter ones are padded.
        cuts: branch points of each sequence, equally many for all.

    Raises:
        ValueError: there is no sequence, or the numbers of branch points differ.
    """
    counts = {len(points) for points in cuts}
    if not examples or len(cuts) != len(examples) or len(counts) != 1:
        raise ValueError(
            f"cuts must hold equally many branch points for each of {len(examples)} > 0 examples, "
            f"got {len(cuts)} lists of lengths {sorted(counts)}"
        )
    length = max(len(example.tokens) for example in examples)
    total = length + BRANCH_TOKENS * counts.pop()
    shape = (len(examples), total)
    input_ids = torch.full(shape, TOKEN_IDS[PAD])
    labels = torch.full(shape, IGNORED)
    position_ids = torch.zeros(shape, dtype=torch.long)
    position_ids[:, :length] = torch.arange(length)
    mask = torch.zeros(len(examples), total, total, dtype=torch.bool)
    mask[:, :length, :length] = torch.ones(length, length, dtype=torch.bool).tril()
    within_branch = torch.ones(BRANCH_TOKENS, BRANCH_TOKENS, dtype=torch.bool).tril()

    for row, (example, points) in enumerate(zip(examples, cuts, strict=True)):
        size = len(example.tokens)
        input_ids[row, :size] = torch.tensor(example.tokens)
        labels[row, example.prompt_length - 1 : size - 1] = input_ids[row, example.prompt_length : size]
        for number, point in enumerate(points):
            start = length + BRANCH_TOKENS * number
            branch = slice(start, start + BRANCH_TOKENS)
            trial = torch.tensor([TOKEN_IDS[THINK_CLOSE], point.target, TOKEN_IDS[TURN_END]])
            input_ids[row, branch] = trial
            labels[row, start : start + BRANCH_TOKENS - 1] = trial[1:]
            position_ids[row, branch] = torch.arange(point.index + 1, point.index + 1 + BRANCH_TOKENS)
            mask[row, branch, : point.index + 1] = True
            mask[row, branch, branch] = within_branch
    return Batch(input_ids, labels, position_ids, mask[:, None], length)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """What the batches of one training phase are made of.

    Attributes:
        batch_size: sequences per batch.
        draft_only: drafts alone, without checks and answer.
        branches: trial answers per sequence.
        guess_share: see :func:`make_example`.
        inside_share: share of trial answers that cut a line rather than follow one.
    """

    batch_size: int
    draft_only: bool
    branches: int = 8
    guess_share: float = 0.3
    inside_share: float = 0.25


def training_batches(rng: random.Random, tokenizer: PreTrainedTokenizerFast, plan: BatchPlan) -> Iterator[Batch]:
    """Endless batches of fresh training problems, similar lengths together."""
    while True:
        pool = [
            make_example(
                rng,
                tokenizer,
                sample_training_problem(rng),
                draft_only=plan.draft_only,
                guess_share=plan.guess_share,
            )
            for _ in range(plan.batch_size * _POOL_BATCHES)
        ]
        pool.sort(key=lambda example: len(example.tokens))
        starts = list(range(0, len(pool), plan.batch_size))
        rng.shuffle(starts)
        for start in starts:
            examples = pool[start : start + plan.batch_size]
            cuts = [choose_cuts(rng, example, plan.branches, plan.inside_share) for example in examples]
            yield collate(examples, cuts)
