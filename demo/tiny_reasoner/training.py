"""The training loop and its recipe."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from demo.tiny_reasoner.batches import IGNORED, Batch, BatchPlan, training_batches
from demo.tiny_reasoner.optimizer import ReasonerOptimizer, learning_rate_scale
from demo.tiny_reasoner.reasoning import CHECKS, CORRECTION, TAG_CHANGED, TAG_SAME
from demo.tiny_reasoner.task import VARIABLES
from demo.tiny_reasoner.tokenizer import THINK_CLOSE, TOKEN_IDS, VOCABULARY

_NAME_IDS = torch.tensor([TOKEN_IDS[name] for name in VARIABLES])


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A stretch of training on one kind of batches.

    Attributes:
        steps: optimiser steps.
        plan: what its batches are made of.
        branch_weight: weight of the trial answers' loss beside that of the sequences.
    """

    steps: int
    plan: BatchPlan
    branch_weight: float

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be >= 1, got {self.steps}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides the weights, the seed apart.

    Attributes:
        phases: first drafts alone (short sequences teach the arithmetic fast; trial answers at full
            weight would slow it down), then whole traces.
        muon_lr, adam_lr, weight_decay, gradient_norm: optimiser settings.
        warmup, decay: shares of all steps, see :func:`learning_rate_scale`.
        tag_weight, header_weight: weights of the tokens that carry the decision to correct, and to go on.
        reference_weight: weight of numbers looked up by their variable's name (the quote in ``b=8?``). Finding
            them is the hardest circuit to form: at weight 1 some seeds never learn it.
    """

    phases: tuple[Phase, ...] = (
        Phase(steps=420, plan=BatchPlan(batch_size=16, draft_only=True), branch_weight=0.1),
        Phase(steps=680, plan=BatchPlan(batch_size=12, draft_only=False), branch_weight=1.0),
    )
    muon_lr: float = 0.02
    adam_lr: float = 3e-3
    weight_decay: float = 0.05
    gradient_norm: float = 1.0
    warmup: float = 0.02
    decay: float = 0.4
    tag_weight: float = 6.0
    header_weight: float = 3.0
    reference_weight: float = 4.0

    @property
    def steps(self) -> int:
        """Optimiser steps of all phases."""
        return sum(phase.steps for phase in self.phases)


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one optimiser step did.

    Attributes:
        step: steps taken so far, this one included.
        sequence_loss: mean cross-entropy of the sequences' tokens, nats (unweighted).
        branch_loss: mean cross-entropy of the trial answers' tokens, nats.
    """

    step: int
    sequence_loss: float
    branch_loss: float


def token_weights(recipe: Recipe) -> Tensor:
    """Loss weight of each vocabulary entry as a target."""
    weights = torch.ones(len(VOCABULARY))
    for token in (TAG_SAME, TAG_CHANGED):
        weights[TOKEN_IDS[token]] = recipe.tag_weight
    for token in (*CHECKS, CORRECTION, THINK_CLOSE):
        weights[TOKEN_IDS[token]] = recipe.header_weight
    return weights


@dataclass(frozen=True, slots=True)
class TokenLosses:
    """Cross-entropy of the tokens that are trained on; all tensors have the shape (tokens,).

    Attributes:
        losses: nats.
        targets: the right token ids.
        in_branch: whether a token belongs to a trial answer.
        is_reference: whether it follows ``name=``, so that it has to be looked up.
    """

    losses: Tensor
    targets: Tensor
    in_branch: Tensor
    is_reference: Tensor


def batch_losses(model: Qwen3ForCausalLM, batch: Batch) -> TokenLosses:
    """Cross-entropy of every token of a batch that is trained on."""
    hidden = model.model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        use_cache=False,
    ).last_hidden_state
    trained = batch.labels != IGNORED
    targets = batch.labels[trained]
    # The output layer sees only the positions that are trained on: less than half of them.
    losses = functional.cross_entropy(model.lm_head(hidden[trained]), targets, reduction="none")
    columns = torch.arange(batch.labels.shape[1]).expand_as(batch.labels)
    after_name = torch.isin(batch.input_ids.roll(1, dims=1), _NAME_IDS)
    is_reference = after_name & (batch.input_ids == TOKEN_IDS["="])
    return TokenLosses(losses, targets, columns[trained] >= batch.sequence_length, is_reference[trained])


def train(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    recipe: Recipe,
    seed: int,
    on_step: Callable[[StepReport], None] = lambda report: None,
) -> None:
    """Train ``model`` in place.

    Args:
        model: the model, in float32.
        tokenizer: its tokenizer.
        recipe: the recipe.
        seed: seed of the training problems.
        on_step: called after each optimiser step; may save the model.
    """
    rng = random.Random(seed)
    optimizer = ReasonerOptimizer(model, recipe.muon_lr, recipe.adam_lr, recipe.weight_decay)
    weights = token_weights(recipe)
    model.train()
    step = 0
    for phase in recipe.phases:
        batches = training_batches(rng, tokenizer, phase.plan)
        for _ in range(phase.steps):
            tokens = batch_losses(model, next(batches))
            weighted = tokens.losses * weights[tokens.targets]
            weighted = torch.where(tokens.is_reference, recipe.reference_weight * weighted, weighted)
            sequence, branches = tokens.losses[~tokens.in_branch], tokens.losses[tokens.in_branch]
            loss = weighted[~tokens.in_branch].mean() + phase.branch_weight * branches.mean()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.gradient_norm)
            optimizer.step(learning_rate_scale(step / recipe.steps, recipe.warmup, recipe.decay))
            step += 1
            on_step(StepReport(step, sequence.detach().mean().item(), branches.detach().mean().item()))
