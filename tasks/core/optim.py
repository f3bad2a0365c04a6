"""Parameter groups and learning-rate schedules."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

__all__ = ["cosine_schedule", "halving_schedule", "parameter_groups", "set_peak"]


def parameter_groups(
    model: nn.Module, weight_decay: float = 0.0, layer_decay: float | None = None
) -> list[dict[str, Any]]:
    """Groups for an optimiser: no decay for biases, norms and what the model's `no_weight_decay()` names.

    Args:
        model: The model; frozen parameters are left out.
        weight_decay: Decay of all other parameters.
        layer_decay: Factor between the learning rate of a layer group and that of the next one, by the model's
            `group_matcher()`; None for equal rates. Source: "BEiT" (2021), after "ELECTRA" (2020).
    """
    exempt: Any = getattr(model, "no_weight_decay", set)
    skip: Iterable[str] = exempt()
    if layer_decay is None:
        return list(param_groups_weight_decay(model, weight_decay, no_weight_decay_list=tuple(skip)))
    groups = param_groups_layer_decay(
        model, weight_decay, no_weight_decay_list=tuple(skip), layer_decay=layer_decay, verbose=False
    )
    return [{key: value for key, value in group.items() if key != "param_names"} for group in groups]


def cosine_schedule(
    optimizer: torch.optim.Optimizer, total_steps: int, warmup_fraction: float = 0.0, min_lr_ratio: float = 0.0
) -> LambdaLR:
    """Linear warm-up, then a cosine down to `min_lr_ratio` of each group's rate, which stays at the end.

    Source: "SGDR: Stochastic Gradient Descent with Warm Restarts" (2017), equation 5, without restarts.

    Args:
        optimizer: The optimiser; each group's own rate is the peak. A group's `lr_scale` multiplies it.
        total_steps: Optimiser steps of the whole run.
        warmup_fraction: Share of the steps for the warm-up, in [0, 1).
        min_lr_ratio: Last rate as a share of the peak rate, in [0, 1].

    Raises:
        ValueError: A fraction is out of its range.
    """
    if not 0 <= warmup_fraction < 1:
        raise ValueError(f"warmup_fraction={warmup_fraction} must be in [0, 1)")
    if not 0 <= min_lr_ratio <= 1:
        raise ValueError(f"min_lr_ratio={min_lr_ratio} must be in [0, 1]")
    warmup = warmup_fraction * total_steps

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done = min(1.0, (step - warmup) / max(1.0, total_steps - warmup))
        return min_lr_ratio + (1 - min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * done))

    def scaled(scale: float) -> Callable[[int], float]:
        return lambda step: scale * factor(step)

    return LambdaLR(optimizer, [scaled(group.get("lr_scale", 1.0)) for group in optimizer.param_groups])


def halving_schedule(optimizer: torch.optim.Optimizer) -> LambdaLR:
    """Halve the rate in every epoch from the third on; call `step` once per epoch.

    Source: "type1" of Time-Series-Library, whose first change leaves the rate as it is.
    """

    def scaled(scale: float) -> Callable[[int], float]:
        return lambda epoch: scale * 0.5 ** max(epoch - 1, 0)

    return LambdaLR(optimizer, [scaled(group.get("lr_scale", 1.0)) for group in optimizer.param_groups])


def set_peak(scheduler: Any, lr: float) -> None:
    """Change the peak rate of a schedule from this module, for its current rates and all later steps."""
    scheduler.base_lrs = [lr for _ in scheduler.base_lrs]
    for group, factor in zip(scheduler.optimizer.param_groups, scheduler.lr_lambdas, strict=True):
        group["lr"] = lr * factor(scheduler.last_epoch)
