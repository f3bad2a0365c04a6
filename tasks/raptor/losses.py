"""Losses and schedules of Raptor's training.

Source: "Block-Recurrent Dynamics in Vision Transformers" (2025) and the trainer of the authors' code. States are
(B, layers, tokens, dim), the first of them the input; tokens are [class, registers, patches].
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from blockzoo.layers.attention.recurrent_block import RecurrentBlock
from blockzoo.raptor import Raptor

__all__ = [
    "TokenLoss",
    "free_running_loss",
    "joint_loss",
    "published_lr",
    "teacher_forced_loss",
    "teacher_forcing_ratio",
]

LossKind = Literal["mse", "weighted", "mse_cosine", "cosine", "cosine_published"]
_KINDS = ("mse", "weighted", "mse_cosine", "cosine", "cosine_published")


@dataclass(frozen=True)
class TokenLoss:
    """Distance of states from their targets, both (B, tokens, dim).

    "mse" is the mean over everything; "weighted" sums the mean squared errors of class token, registers and patches
    with their weights; "mse_cosine" is half the mean squared error minus half the mean cosine; "cosine" is minus the
    mean cosine. "cosine_published" has the plus of the authors' code, which pushes states apart; no
    model was trained with it.

    Groups that a teacher lacks are left out of "weighted"; the other weights are scaled up to the same sum.

    Args:
        kind: See above.
        weights: Weights of the class token, of the registers (and other tokens before the patches), and of the patches.
        num_prefix_tokens: Tokens before the patches.
        class_token: Whether the first of them is a class token.
    """

    kind: LossKind = "mse"
    weights: tuple[float, float, float] = (0.45, 0.10, 0.45)
    num_prefix_tokens: int = 5
    class_token: bool = True

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"kind={self.kind!r} must be one of {', '.join(_KINDS)}")
        if len(self.weights) != 3 or min(self.weights) < 0 or sum(self.weights) <= 0:
            raise ValueError(f"weights={self.weights} must be three numbers from 0, not all 0")

    def __call__(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss, a scalar."""
        if self.kind == "mse":
            return F.mse_loss(prediction, target)
        if self.kind == "weighted":
            return self._weighted(prediction, target)
        cosine = F.cosine_similarity(prediction, target, dim=-1).mean()
        if self.kind.startswith("cosine"):
            return -cosine if self.kind == "cosine" else cosine
        return 0.5 * F.mse_loss(prediction, target) - 0.5 * cosine

    def _weighted(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        first, prefix = int(self.class_token), self.num_prefix_tokens
        parts = (slice(0, first), slice(first, prefix), slice(prefix, None))
        terms, present = [], 0.0
        for part, weight in zip(parts, self.weights, strict=True):
            if prediction[:, part].shape[1]:
                terms.append(weight * F.mse_loss(prediction[:, part], target[:, part]))
                present += weight
        return torch.stack(terms).sum() * (sum(self.weights) / present)


def free_running_loss(block: nn.Module, states: torch.Tensor, first: int, loss: TokenLoss) -> torch.Tensor:
    """Loss of one block on its own outputs from the first state on, averaged over steps; gradients pass through all.

    Args:
        block: A `RecurrentBlock`.
        states: (B, steps + 1, tokens, dim), of the teacher.
        first: Depth of the first application, counted from 1.
        loss: The loss of one step.
    """
    x, terms = states[:, 0], []
    for step in range(1, states.shape[1]):
        x = block(x, first + step - 1)
        terms.append(loss(x, states[:, step]))
    return torch.stack(terms).mean()


def teacher_forced_loss(block: RecurrentBlock, states: torch.Tensor, first: int, loss: TokenLoss) -> torch.Tensor:
    """One block on the teacher's states, all steps in one batch; the arguments are those of `free_running_loss`."""
    batch, count = states.shape[:2]
    steps = count - 1
    scales = None
    if block.depth_scale:
        depths = torch.arange(first, first + steps, device=states.device, dtype=block.norm1.weight.dtype)
        scales = block.scales(depths).repeat(batch, 1, 1)
    prediction = block.apply_scaled(states[:, :-1].flatten(0, 1), scales)
    return loss(prediction, states[:, 1:].flatten(0, 1))


def joint_loss(model: Raptor, states: torch.Tensor, loss: TokenLoss) -> torch.Tensor:
    """Loss of the whole model on its own outputs from the embedded tokens on, averaged over the layers.

    Args:
        model: A Raptor of L layers.
        states: (B, L + 1, tokens, dim), of the teacher.
        loss: The loss of one layer.
    """
    run = model.forward_trajectory(states[:, 0])
    return torch.stack([loss(x, states[:, layer]) for layer, x in enumerate(run) if layer]).mean()


def teacher_forcing_ratio(step: int, total_steps: int, fraction: float = 0.25) -> float:
    """Share of the teacher-forced loss: from 1, linearly to 0 after `fraction` of the steps."""
    length = fraction * total_steps
    return max(0.0, 1.0 - step / length) if length > 0 else 0.0


def published_lr(step: int, total_steps: int, warmup_steps: int, base: float = 3e-4, final: float = 1e-6) -> float:
    """Learning rate of the authors' schedule: linear from 0 to `base` over the warm-up, then a cosine to `final`."""
    if step < warmup_steps:
        return base * step / max(1, warmup_steps - 1)
    if step >= total_steps:
        return final
    done = (step - warmup_steps) / (total_steps - warmup_steps)
    return final + 0.5 * (base - final) * (1 + math.cos(math.pi * done))
