"""Averaged inception convolution: parallel square kernels evaluated as one."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["InceptionConv2d"]


class InceptionConv2d(nn.Module):
    """Mean of `same`-padded convolutions with kernel sizes 1, 3, .., 2 * num_kernels - 1, computed as one convolution.

    Convolution is linear in its kernel, so the mean of the branches is the convolution with the mean of their
    zero-padded kernels. The mean is composed at every call, so that gradients reach all branches; `fuse()` composes it
    once and drops the branches.

    Source: "TimesNet: Temporal 2D-Variation Modeling for General Time Series Analysis" (2023), section 3.2; the branch
    form is `Inception_Block_V1` of the original code, whose initialisation this keeps.

    Args:
        in_chans: Input channels.
        out_chans: Output channels.
        num_kernels: Number of branches.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        num_kernels: int = 6,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if num_kernels < 1:
            raise ValueError(f"num_kernels={num_kernels} must be at least 1")
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_chans = in_chans
        self.out_chans = out_chans
        self.num_kernels = num_kernels
        self.kernels = nn.ModuleList(
            nn.Conv2d(in_chans, out_chans, 2 * i + 1, padding=i, **dd) for i in range(num_kernels)
        )
        self.weight: nn.Parameter | None = None
        self.bias: nn.Parameter | None = None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Kaiming-normal kernels (fan out, ReLU gain) and zero biases in every branch."""
        for conv in self.kernels:
            assert isinstance(conv, nn.Conv2d) and conv.bias is not None
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(conv.bias)

    def merged(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The equivalent single kernel (out_chans, in_chans, K, K), K = 2 * num_kernels - 1, and bias (out_chans,)."""
        if self.weight is not None and self.bias is not None:
            return self.weight, self.bias
        weight: Any = self.kernels[0].weight
        bias: Any = self.kernels[0].bias
        conv: Any
        for conv in self.kernels[1:]:
            weight = F.pad(weight, (1, 1, 1, 1)) + conv.weight
            bias = bias + conv.bias
        return weight / self.num_kernels, bias / self.num_kernels

    @torch.no_grad()
    def fuse(self) -> None:
        """Replace the branches by the merged kernel, in place; calling it again changes nothing."""
        if self.weight is None:
            weight, bias = self.merged()
            self.weight, self.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
            self.kernels = nn.ModuleList()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve images (B, in_chans, H, W) to (B, out_chans, H, W)."""
        weight, bias = self.merged()
        return F.conv2d(x, weight, bias, padding=self.num_kernels - 1)

    def extra_repr(self) -> str:
        """Sizes, and whether the branches are merged."""
        return f"{self.in_chans}, {self.out_chans}, num_kernels={self.num_kernels}, merged={self.weight is not None}"
