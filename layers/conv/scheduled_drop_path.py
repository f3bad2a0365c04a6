"""Drop path that grows over training.

Source: "Learning Transferable Architectures for Scalable Image Recognition" (2018), section 3, "ScheduledDropPath"; the
formula is that of the authors' code: keep probability 1 - progress * rate, rate growing with depth.
"""

import torch
from torch import nn

__all__ = ["ScheduledDropPath", "set_drop_path_progress"]


class ScheduledDropPath(nn.Module):
    """Zero the whole input of some samples in training, with a probability that grows from 0 to `rate`.

    Args:
        rate: Probability at the end of training, in [0, 1).

    Shape:
        (B, *) -> (B, *); kept samples are divided by the keep probability.

    Raises:
        ValueError: `rate` is out of its range.
    """

    progress: torch.Tensor

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"rate={rate} must be in [0, 1)")
        self.rate = rate
        # A tensor, so that a compiled model need not be compiled again in every step.
        self.register_buffer("progress", torch.ones((), device="cpu"), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Drop samples of x (B, *)."""
        if self.rate == 0.0 or not self.training:
            return x
        keep = 1 - self.rate * self.progress.to(x.device, x.dtype)
        shape = [x.shape[0]] + [1] * (x.ndim - 1)
        return x * (torch.rand(shape, device=x.device, dtype=x.dtype) < keep) / keep

    def extra_repr(self) -> str:
        """The rate."""
        return f"rate={self.rate:.3f}"


def set_drop_path_progress(model: nn.Module, fraction: float) -> None:
    """Tell every `ScheduledDropPath` of a model how much of the training is done.

    Args:
        model: Any module.
        fraction: From 0 to 1.

    Raises:
        ValueError: `fraction` is out of its range.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction={fraction} must be in [0, 1]")
    for module in model.modules():
        if isinstance(module, ScheduledDropPath):
            module.progress.fill_(fraction)
