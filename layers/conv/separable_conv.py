"""Depthwise-separable convolution.

Source: "Xception: Deep Learning with Depthwise Separable Convolutions" (2017), figure 4, with nothing between the two
convolutions.
"""

from typing import Any, Literal

import torch
import torch.fx
import torch.nn.functional as F
from torch import nn

from blockzoo.kernels._dispatch import use_kernel
from blockzoo.kernels.separable_conv import Activation, separable_conv
from blockzoo.layers.conv.conv_norm_act import ConvNormAct, pad_same

__all__ = ["KERNEL_ACTIVATIONS", "SeparableConv"]

torch.fx.wrap("pad_same")  # torch.fx keeps its calls whole, whoever traces

KERNEL_ACTIVATIONS: dict[type[nn.Module], Activation] = {nn.Identity: "none", nn.ReLU: "relu", nn.SiLU: "silu"}
"""What `blockzoo.kernels.separable_conv` calls an activation."""


class SeparableConv(nn.Module):
    """Depthwise convolution, then a 1x1 convolution with batch norm and activation.

    After `deploy()`, it is one launch of `blockzoo.kernels.separable_conv` if that kernel is in use.

    Args:
        in_chans: Input channels.
        out_chans: Output channels.
        kernel_size: Kernel size of the depthwise convolution.
        stride: Step of the depthwise convolution, the same along both axes.
        padding: "same" for TensorFlow's dynamic padding, None for `kernel_size // 2` on both sides.
        act_layer: Class of the activation after the norm, or None for none.
        eps: Added to the variance in the batch norm.
        momentum: Momentum of the running statistics.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Shape:
        (B, in_chans, H, W) -> (B, out_chans, H', W'); with "same" padding sizes are divided by the stride, rounded up.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        kernel_size: int,
        stride: int = 1,
        padding: Literal["same"] | None = None,
        act_layer: type[nn.Module] | None = None,
        eps: float = 1e-5,
        momentum: float = 0.1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.window, self.stride = [kernel_size, kernel_size], [stride, stride]
        self.dynamic_padding = padding == "same" and stride > 1
        pad = 0 if self.dynamic_padding else kernel_size // 2
        self.dw = nn.Conv2d(in_chans, in_chans, kernel_size, stride, pad, groups=in_chans, bias=False, **dd)
        self.pw = ConvNormAct(in_chans, out_chans, 1, act_layer=act_layer, eps=eps, momentum=momentum, **dd)

    def depthwise(self, x: torch.Tensor) -> torch.Tensor:
        """The first convolution: (B, in_chans, H, W) -> (B, in_chans, H', W')."""
        if self.dynamic_padding:
            x = pad_same(x, self.window, self.stride)
        return self.dw(x)

    @torch.jit.ignore
    def fuses(self, x: torch.Tensor) -> bool:
        """Whether the layer, applied to x, is one kernel."""
        merged = self.pw.mode == "deploy" and type(self.pw.conv.act) in KERNEL_ACTIVATIONS
        return merged and use_kernel("separable_conv", x)

    @torch.jit.ignore
    def _fused(self, x: torch.Tensor, relu_first: bool) -> torch.Tensor:
        pw = self.pw.conv
        padding: Any = "same" if self.dynamic_padding else self.dw.padding[0]
        acts: dict[str, Any] = {"act_in": "relu" if relu_first else "none", "act_out": KERNEL_ACTIVATIONS[type(pw.act)]}
        return separable_conv(
            x, self.dw.weight, pw.weight, bias=pw.bias, stride=self.stride[0], padding=padding, **acts
        )

    def forward(self, x: torch.Tensor, relu_first: bool = False) -> torch.Tensor:
        """Apply the layer to x (B, in_chans, H, W), or to its positive part."""
        if not torch.jit.is_scripting() and self.fuses(x):
            return self._fused(x, relu_first)
        if relu_first:
            x = F.relu(x)
        return self.pw(self.depthwise(x))
