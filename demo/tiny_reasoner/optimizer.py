"""Muon for the weight matrices, AdamW for the rest, and one learning-rate schedule for both."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

# Quintic Newton-Schulz coefficients (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/).
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_NEWTON_SCHULZ_STEPS = 5

# Hidden matrices alone go to Muon; the embedding (also the output layer) and the norms are AdamW's.
_ADAM_BETAS = (0.9, 0.95)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Push the singular values of each matrix towards 1, leaving its singular vectors.

    Args:
        matrices: shape (count, rows, columns).

    Returns:
        The same shape; singular values lie roughly within 0.7 .. 1.2.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    result: Tensor = matrices.transpose(1, 2) if tall else matrices
    result = result / (result.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = _NEWTON_SCHULZ
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = result @ result.transpose(1, 2)
        result = a * result + (b * gram + c * gram @ gram) @ result
    return result.transpose(1, 2) if tall else result


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised (Jordan et al. 2024), with decoupled weight decay.

    Args:
        params: matrices only.
        lr: step size; an update has about unit spectral norm before it.
        momentum: Nesterov momentum in [0, 1).
        weight_decay: fraction of ``lr`` times the weights that is taken off per step.

    Raises:
        ValueError: a parameter is not a matrix, or a setting is out of range.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        if lr <= 0:
            raise ValueError(f"lr must be > 0, got {lr}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        if weight_decay < 0:
            raise ValueError(f"weight_decay must be >= 0, got {weight_decay}")
        matrices = list(params)
        for parameter in matrices:
            if parameter.ndim != 2:
                raise ValueError(f"params must be matrices, got one of shape {tuple(parameter.shape)}")
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every matrix that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for parameters in by_shape.values():
                self._update(parameters, group)
        return loss

    def _update(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        """Update matrices of one shape; they are orthogonalised in one batch, which is much faster."""
        directions = []
        for parameter in parameters:
            assert parameter.grad is not None
            average = self.state[parameter].setdefault("average", torch.zeros_like(parameter))
            average.lerp_(parameter.grad, 1 - group["momentum"])
            directions.append(parameter.grad.lerp(average, group["momentum"]))
        rows, columns = parameters[0].shape
        scale = max(1.0, rows / columns) ** 0.5
        for parameter, update in zip(parameters, orthogonalise(torch.stack(directions)), strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(update, alpha=-group["lr"] * scale)


class ReasonerOptimizer:
    """Both optimisers of a model, stepped together at one scale of their learning rates."""

    def __init__(self, model: nn.Module, muon_lr: float, adam_lr: float, weight_decay: float) -> None:
        named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        hidden = [p for name, p in named if p.ndim == 2 and "embed" not in name]
        chosen = {id(p) for p in hidden}
        others = [p for _, p in named if id(p) not in chosen]
        self._optimizers: list[torch.optim.Optimizer] = [
            Muon(hidden, lr=muon_lr, weight_decay=weight_decay),
            torch.optim.AdamW(others, lr=adam_lr, betas=_ADAM_BETAS, weight_decay=0.0),
        ]
        self._base_rates = [[group["lr"] for group in o.param_groups] for o in self._optimizers]

    def step(self, scale: float) -> None:
        """Apply the gradients at ``scale`` (0..1) of the full learning rates, then clear them."""
        for optimizer, rates in zip(self._optimizers, self._base_rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * scale
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def learning_rate_scale(progress: float, warmup: float, decay: float) -> float:
    """Scale of the learning rates: linear warm-up, constant, linear decay to 2 %.

    Args:
        progress: share of the training done, in [0, 1].
        warmup: share of it that is warm-up.
        decay: share of it, at the end, that is decay.
    """
    if progress < warmup:
        return progress / warmup
    if progress < 1 - decay:
        return 1.0
    return max(0.02, (1 - progress) / decay)
