"""Pseudo-3-D convolutions: 1x3x3 over space and 3x1x1 over time instead of 3x3x3, in the three orders of P3D.

Source: "Learning Spatio-Temporal Representation with Pseudo-3D Residual Networks" (2017), section 3.1.

A clip is (B, C, T, H, W). All convolutions here are 2-D: those over space see frames (B * T, C, H, W), those over time
see (B, C, T, H * W). With the memory order (B, T, H, W, C), PyTorch's `channels_last_3d`, both are views of the clip
and nothing is ever rearranged; a clip in another order is copied once and stays in this one.
"""

from typing import Any, Literal

import torch
import torch.fx
import torch.nn.functional as F
from timm.layers import register_notrace_function
from torch import nn

from blockzoo.layers.conv.conv_norm_act import ConvNormAct, replace_parameters
from blockzoo.layers.conv.deployed_conv import DeployedConv2d

__all__ = [
    "add_relu",
    "FrameConv",
    "PseudoConv3d",
    "TimeConv",
    "as_clip",
    "as_courses",
    "as_frames",
    "channels_last_clip",
    "pool_time",
]

torch.fx.wrap("pool_time")  # torch.fx keeps its calls whole, whoever traces

Structure = Literal["A", "B", "C"]


def channels_last_clip(x: torch.Tensor) -> torch.Tensor:
    """A clip (B, C, T, H, W) in the memory order (B, T, H, W, C), copied if it is in another."""
    return x.contiguous(memory_format=torch.channels_last_3d)


def as_frames(x: torch.Tensor) -> torch.Tensor:
    """View a clip (B, C, T, H, W) as frames (B * T, C, H, W)."""
    batch, chans, steps, height, width = x.shape
    return x.permute(0, 2, 3, 4, 1).reshape(batch * steps, height, width, chans).permute(0, 3, 1, 2)


def as_clip(x: torch.Tensor, steps: int) -> torch.Tensor:
    """View frames (B * steps, C, H, W) as a clip (B, C, steps, H, W)."""
    frames, chans, height, width = x.shape
    return x.permute(0, 2, 3, 1).reshape(frames // steps, steps, height, width, chans).permute(0, 4, 1, 2, 3)


def as_courses(x: torch.Tensor) -> torch.Tensor:
    """View a clip (B, C, T, H, W) as the courses of its pixels over time, (B, C, T, H * W)."""
    batch, chans, steps, height, width = x.shape
    return x.permute(0, 2, 3, 4, 1).reshape(batch, steps, height * width, chans).permute(0, 3, 1, 2)


def from_courses(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """View courses (B, C, T, H * W) as a clip (B, C, T, *size)."""
    batch, chans, steps, _ = x.shape
    return x.permute(0, 2, 3, 1).reshape(batch, steps, size[0], size[1], chans).permute(0, 4, 1, 2, 3)


@register_notrace_function
def pool_time(x: torch.Tensor, round_up: bool) -> torch.Tensor:
    """Take the maximum over pairs of frames; a single frame stays as it is.

    Args:
        x: (B, C, T, H, W).
        round_up: Whether the last of an odd number of frames is kept by itself (Caffe) or dropped (PyTorch).

    Returns:
        (B, C, T', H, W) with T' = T / 2, rounded up or down, at least 1.
    """
    if x.shape[2] == 1:
        return x
    return from_courses(F.max_pool2d(as_courses(x), (2, 1), (2, 1), ceil_mode=round_up), (x.shape[3], x.shape[4]))


def add_relu(layer: ConvNormAct, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """relu(layer(x) + other), in one pass if the layer is deployed.

    Args:
        layer: A layer without activation.
        x: Its input.
        other: A tensor of the shape of the layer's output.
    """
    if isinstance(layer.conv, DeployedConv2d):
        return layer.conv.add_relu(x, other)
    return F.relu(layer(x).add_(other), inplace=True)


class FrameConv(nn.Module):
    """`ConvNormAct` on every frame by itself: a 1 x k x k convolution.

    Args:
        in_chans: Input channels.
        out_chans: Output channels.
        kernel_size: k.
        stride: Stride in space.
        act_layer: Class of the activation, or None for none.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Shape:
        (B, in_chans, T, H, W) -> (B, out_chans, T, H', W').
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        kernel_size: int = 1,
        stride: int = 1,
        act_layer: type[nn.Module] | None = nn.ReLU,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.layer = ConvNormAct(in_chans, out_chans, kernel_size, stride, act_layer=act_layer, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer to x (B, in_chans, T, H, W)."""
        return as_clip(self.layer(as_frames(x)), x.shape[2])

    def add_relu(self, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Relu of the layer's output, which must have no activation, plus a clip of the same shape."""
        return as_clip(add_relu(self.layer, as_frames(x), as_frames(other)), x.shape[2])


class TimeConv(nn.Module):
    """`ConvNormAct` on every pixel's course over time: a 3 x 1 x 1 convolution, zeros before the first and last frame.

    As matrix products, each output frame is a sum of three: those of its neighbours and of itself with one matrix each.

    Args:
        chans: Channels.
        act_layer: Class of the activation, or None for none.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Shape:
        (B, chans, T, H, W) -> the same.
    """

    def __init__(
        self,
        chans: int,
        act_layer: type[nn.Module] | None = nn.ReLU,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.layer = ConvNormAct(chans, chans, (3, 1), act_layer=act_layer, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer to x (B, chans, T, H, W)."""
        return from_courses(self.layer(as_courses(x)), (x.shape[3], x.shape[4]))

    def add_relu(self, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Relu of the layer's output, which must have no activation, plus a clip of the same shape."""
        return from_courses(add_relu(self.layer, as_courses(x), as_courses(other)), (x.shape[3], x.shape[4]))


class PseudoConv3d(nn.Module):
    """The pair of convolutions in the middle of a P3D block, with S over space and T over time.

    | structure | port | caffe |
    | --- | --- | --- |
    | A | T(S(x)) | the same |
    | B | S(x) + T(x) | relu(S(x) + T'(x)) |
    | C | S(x) + T(S(x)) | relu(S(x) + T'(S(x))), or relu of the half of it with `mean_c` |

    S and T end in batch norm and ReLU, T' in batch norm only. "port" is what the PyTorch port computes, "caffe" the
    authors' own network.

    Args:
        chans: Channels.
        structure: "A", "B" or "C".
        semantics: "port" or "caffe".
        mean_c: C takes the mean of its two parts, not their sum.
        stride: Stride in space of S; in B, T sees every `stride`-th pixel.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Shape:
        (B, chans, T, H, W) -> the same, sizes in space divided by `stride` and rounded up.

    Raises:
        ValueError: Unknown `structure` or `semantics`.
    """

    def __init__(
        self,
        chans: int,
        structure: Structure,
        semantics: Literal["port", "caffe"] = "port",
        mean_c: bool = False,
        stride: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if structure not in ("A", "B", "C"):
            raise ValueError(f"structure={structure!r} must be 'A', 'B' or 'C'")
        if semantics not in ("port", "caffe"):
            raise ValueError(f"semantics={semantics!r} must be 'port' or 'caffe'")
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.structure = structure
        self.late_act = semantics == "caffe" and structure != "A"
        self.scale = 0.5 if mean_c and structure == "C" else 1.0
        self.stride = stride
        self.space = FrameConv(chans, chans, 3, stride, **dd)
        self.time = TimeConv(chans, None if self.late_act else nn.ReLU, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply both to x (B, chans, T, H, W)."""
        of_space = self.space(x)
        before = x[..., :: self.stride, :: self.stride] if self.structure == "B" else of_space
        if self.structure == "A":
            return self.time(before)
        y = self.time.add_relu(before, of_space) if self.late_act else of_space + self.time(before)
        return y if self.scale == 1.0 else y * self.scale

    @torch.no_grad()
    def absorb_scale(self, after: nn.Module) -> None:
        """Move the factor of the mean into the weights of the convolution after this layer."""
        conv: Any = after
        replace_parameters(conv, conv.weight * self.scale, conv.bias)
        self.scale = 1.0
