"""Convolution, batch norm and activation as one layer with four modes, and batch norm before a 1x1 convolution.

Source of the modes: "Efficient ConvBN Blocks for Transfer Learning and Beyond" (2023), section 3.

| mode | statistics | what is computed | kept for the backward pass |
| --- | --- | --- | --- |
| train | of the batch when training, running in eval | convolution, then norm | input, output before the norm |
| eval | running, also when training | convolution, then norm | input, output before the norm |
| tune | running, also when training | convolution with folded weights | input |
| deploy | gone | convolution with weights that were folded once | input |

Tune folds the weights in every step, once forward and once backward, so that not even the folded copy is kept: outputs
and gradients (of the convolution's weights, of the norm's scale and shift, of the input) are those of eval, to
rounding.
"""

import abc
from collections.abc import Sequence
from typing import Any, Literal, cast, get_args

import torch
import torch.fx
import torch.nn.functional as F
from timm.layers import register_notrace_function, register_notrace_module
from torch import nn
from typing_extensions import Self

from blockzoo.layers.conv.deployed_conv import DeployedConv2d

__all__ = [
    "ConvNormAct",
    "ConvNormMode",
    "ModalBatchNorm2d",
    "NormConv",
    "batch_norm_affine",
    "fold_before",
    "pad_same",
    "replace_parameters",
    "set_conv_norm_mode",
]

torch.fx.wrap("pad_same")  # torch.fx keeps its calls whole, whoever traces
torch.fx.wrap("folded_conv")
torch.fx.wrap("counted")

ConvNormMode = Literal["train", "eval", "tune", "deploy"]

_CONVS: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
_NORMS: dict[int, type[nn.BatchNorm2d] | type[nn.BatchNorm3d]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


@register_notrace_function
def pad_same(x: torch.Tensor, kernel_size: list[int], stride: list[int], value: float = 0.0) -> torch.Tensor:
    """Pad so that a strided window op gives ceil(size / stride) outputs, as TensorFlow's "same" does.

    If the padding is odd, the larger part goes behind the data.

    Args:
        x: (B, C, *space).
        kernel_size: Kernel size, one number for each axis in space.
        stride: Stride, one number for each axis in space.
        value: What to pad with.
    """
    padding: list[int] = []
    for axis in range(len(kernel_size) - 1, -1, -1):  # F.pad begins with the last axis
        size = x.shape[axis + 2]
        total = max((-(-size // stride[axis]) - 1) * stride[axis] + kernel_size[axis] - size, 0)
        padding += [total // 2, total - total // 2]
    return F.pad(x, padding, value=value)


def batch_norm_affine(norm: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The affine map that a batch norm with running statistics computes: y = scale * x + shift, both (C,).

    Computed in float32 at least, so that a bfloat16 layer folds as precisely as it normalises.
    """
    weight, bias = norm.weight, norm.bias
    mean, var = norm.running_mean, norm.running_var
    if weight.dtype != torch.float64:
        weight, bias, mean, var = weight.float(), bias.float(), mean.float(), var.float()
    scale = weight * torch.rsqrt(var + norm.eps)
    return scale, bias - mean * scale


def fold_before(conv: nn.Conv2d, scale: torch.Tensor, shift: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Fold an affine map into the 1x1 convolution `conv` after it: weight and bias that take x, not scale * x + shift.

    Args:
        conv: The convolution.
        scale: Factor of each input channel, (in_chans,).
        shift: Added to each input channel, (in_chans,).

    Returns:
        Weight (out_chans, in_chans, 1, 1) and bias (out_chans,) in the type of `conv`.
    """
    weight = conv.weight * scale.reshape(1, -1, 1, 1)
    return weight.to(conv.weight.dtype), _bias_before(conv, shift).to(conv.weight.dtype)


def _bias_before(conv: nn.Conv2d, shift: torch.Tensor) -> torch.Tensor:
    bias = (conv.weight.flatten(1).to(shift.dtype) * shift).sum(1)
    return bias if conv.bias is None else bias + conv.bias


class _FoldedConv(torch.autograd.Function):
    """Convolution with weight * scale that keeps neither its output nor the product."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        scale: torch.Tensor,
        bias: torch.Tensor,
        geometry: tuple[Any, ...],
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight, scale)
        ctx.geometry, ctx.bias_dtype = geometry, bias.dtype
        return torch.convolution(x, (weight * scale).to(x.dtype), bias.to(x.dtype), *geometry)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        x, weight, scale = ctx.saved_tensors
        folded = (weight * scale).to(x.dtype)
        wants_x, wants_weight, wants_scale, wants_bias = ctx.needs_input_grad[:4]
        mask = [wants_x, wants_weight or wants_scale, wants_bias]
        of_x, of_folded, of_bias = torch.ops.aten.convolution_backward(
            grad, x, folded, [weight.shape[0]], *ctx.geometry, mask
        )
        del folded
        of_weight = of_scale = None
        if wants_scale:
            of_scale = (of_folded * weight).sum_to_size(scale.shape).to(scale.dtype)
        if wants_weight:
            of_weight = (of_folded * scale).to(weight.dtype)
        return of_x, of_weight, of_scale, of_bias.to(ctx.bias_dtype) if wants_bias else None, None


@register_notrace_function
def folded_conv(conv: Any, x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Apply `conv` with weight * scale and another bias.

    Args:
        conv: The convolution, which pads with zeros.
        x: (B, in_chans, *space).
        scale: Factor of the weights, in a shape that broadcasts to theirs.
        bias: (out_chans,).
    """
    device = x.device.type
    if torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        x = x.to(torch.get_autocast_dtype(device))
    geometry = (conv.stride, conv.padding, conv.dilation, False, (0,) * len(conv.stride), conv.groups)
    y: torch.Tensor = _FoldedConv.apply(x, conv.weight, scale, bias, geometry)  # type: ignore[no-untyped-call]
    return y


def replace_parameters(conv: nn.Module, weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Give a convolution or linear layer new values of any shape; trainable parameters stay trainable."""
    trainable = bool(conv.weight.requires_grad)
    conv.weight = nn.Parameter(weight.detach().to(conv.weight.dtype), trainable)  # type: ignore[arg-type]
    conv.bias = nn.Parameter(bias.detach().to(conv.weight.dtype), trainable)  # type: ignore[arg-type]


def _check_mode(mode: str) -> None:
    if mode not in get_args(ConvNormMode):
        raise ValueError(f"mode={mode!r} must be one of {', '.join(get_args(ConvNormMode))}")


@register_notrace_function
def counted(x: torch.Tensor, batches: torch.Tensor) -> torch.Tensor:
    """Return x unchanged, after adding one to the number of batches that a norm has seen."""
    batches.add_(1)
    return x


@register_notrace_module
class ModalBatchNorm2d(nn.BatchNorm2d):
    """Batch norm without a convolution to fold it into: frozen in the modes eval, tune and deploy.

    Arguments, shapes and state are those of `torch.nn.BatchNorm2d`, with running statistics and a number as momentum.
    """

    mode: str = "train"
    wanted: bool = True

    def train(self, mode: bool = True) -> Self:
        """Training mode as in `nn.Module`, except that frozen statistics stay frozen."""
        self.wanted = mode
        return super().train(mode and self.mode == "train")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise x (B, C, H, W) as `torch.nn.BatchNorm2d` does, without its check of shapes, which breaks fx."""
        if self.training and self.num_batches_tracked is not None:
            x = counted(x, self.num_batches_tracked)
        assert self.momentum is not None
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
        )

    def set_mode(self, mode: ConvNormMode) -> None:
        """Change the mode; raises `ValueError` if there is no such mode."""
        _check_mode(mode)
        self.mode = mode
        self.train(self.wanted)


class _ModalPair(nn.Module, abc.ABC):
    """Base class of a convolution with a batch norm in the four modes."""

    mode: str

    def __init__(self) -> None:
        super().__init__()
        self.mode = "train"

    def train(self, mode: bool = True) -> Self:
        """Training mode as in `nn.Module`, except that frozen statistics stay frozen."""
        super().train(mode)
        if self.mode == "eval" or self.mode == "tune":
            self.norm.eval()
        return self

    def set_mode(self, mode: ConvNormMode) -> None:
        """Change the mode; `deploy` cannot be undone.

        Raises:
            ValueError: There is no such mode.
            RuntimeError: The layer is merged already and another mode is requested.
        """
        _check_mode(mode)
        if mode == "deploy":
            self.fuse()
        elif self.mode == "deploy":
            raise RuntimeError(f"mode={mode!r}: the layer is merged (mode 'deploy'), its batch norm no longer exists")
        else:
            self.mode = mode
            self.train(self.training)

    @abc.abstractmethod
    def folded(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight and bias of the single convolution that equals the pair with its running statistics."""

    @torch.no_grad()
    def fuse(self) -> None:
        """Merge the norm into the convolution for good."""
        if self.mode == "deploy":
            return
        replace_parameters(cast(nn.Module, self.conv), *self.folded())
        self.norm = nn.Identity()
        self.mode = "deploy"

    def extra_repr(self) -> str:
        """The mode."""
        return f"mode={self.mode}"


class ConvNormAct(_ModalPair):
    """Convolution, batch norm, activation, in 2-D or 3-D.

    Args:
        in_chans: Input channels.
        out_chans: Output channels.
        kernel_size: Size of the window, one number or one for each space axis.
        stride: Step of the window, one number or one for each space axis.
        padding: Zeros on both sides, one number or one for each axis; None for `dilation * (kernel_size - 1) // 2`;
            "same" for TensorFlow's dynamic padding, see `pad_same`.
        dilation: Spacing of the window.
        groups: Groups of channels.
        bias: Whether the convolution has its own bias.
        act_layer: Class of the activation, or None for none.
        eps: Added to the variance in the batch norm.
        momentum: Momentum of the running statistics.
        dims: Space axes, 2 or 3.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Shape:
        (B, in_chans, *space) -> (B, out_chans, *space'), in the dtype of the parameters or under autocast.

    Raises:
        ValueError: `dims` is not 2 or 3, or `padding` is a word other than "same".
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        kernel_size: int | Sequence[int] = 1,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | Literal["same"] | None = None,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = False,
        act_layer: type[nn.Module] | None = nn.ReLU,
        eps: float = 1e-5,
        momentum: float = 0.1,
        dims: int = 2,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if dims not in _CONVS:
            raise ValueError(f"dims={dims} must be 2 or 3")
        if isinstance(padding, str) and padding != "same":
            raise ValueError(f"padding={padding!r} must be numbers, None or 'same'")
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        kernel, strides, dilations = (_per_axis(v, dims) for v in (kernel_size, stride, dilation))
        self.kernel, self.stride = kernel, strides
        self.dynamic_padding = padding == "same" and any(s > 1 for s in strides)
        if padding is None or padding == "same":
            pads = [0 if self.dynamic_padding else d * (k - 1) // 2 for k, d in zip(kernel, dilations, strict=True)]
        else:
            pads = _per_axis(padding, dims)
        self.conv: Any = _CONVS[dims](
            in_chans,
            out_chans,
            tuple(kernel),  # type: ignore[arg-type]
            tuple(strides),  # type: ignore[arg-type]
            tuple(pads),  # type: ignore[arg-type]
            tuple(dilations),  # type: ignore[arg-type]
            groups,
            bias,
            **dd,
        )
        self.norm: Any = _NORMS[dims](out_chans, eps, momentum, **dd)
        if act_layer is None:
            self.act: nn.Module = nn.Identity()
        else:
            self.act = nn.ReLU(inplace=True) if act_layer is nn.ReLU else act_layer()

    @torch.jit.ignore
    def folded(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight (out_chans, in_chans // groups, *kernel) and bias (out_chans,) of the equivalent convolution."""
        scale, bias = self._affine()
        return (self.conv.weight * scale).to(self.conv.weight.dtype), bias.to(self.conv.weight.dtype)

    def _affine(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The norm's factor of the weights, in a shape that broadcasts to them, and the resulting bias."""
        scale, bias = batch_norm_affine(self.norm)
        if self.conv.bias is not None:
            bias = bias + self.conv.bias * scale
        return scale.reshape([-1] + [1] * (self.conv.weight.ndim - 1)), bias

    @torch.no_grad()
    def fuse(self) -> None:
        """Merge the norm into the convolution for good, and in 2-D the activation into its pass."""
        super().fuse()
        if type(self.conv) is nn.Conv2d:
            self.conv = DeployedConv2d(self.conv, self.act)
            self.act = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer to x (B, in_chans, *space)."""
        if self.dynamic_padding:
            x = pad_same(x, self.kernel, self.stride)
        if not torch.jit.is_scripting() and self.mode == "tune":  # a script computes the same as in eval
            return self.act(folded_conv(self.conv, x, *self._affine()))
        return self.act(self.norm(self.conv(x)))


class NormConv(_ModalPair):
    """Batch norm, then a 1x1 convolution, in 2-D: the pre-norm of a residual branch, in the same four modes.

    Args:
        in_chans: Input channels.
        out_chans: Output channels.
        bias: Whether the convolution has its own bias.
        eps: Added to the variance in the batch norm.
        momentum: Momentum of the running statistics.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Shape:
        (B, in_chans, H, W) -> (B, out_chans, H, W).
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        bias: bool = True,
        eps: float = 1e-5,
        momentum: float = 0.1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.norm: Any = nn.BatchNorm2d(in_chans, eps, momentum, device=device, dtype=dtype)
        self.conv = nn.Conv2d(in_chans, out_chans, 1, bias=bias, device=device, dtype=dtype)

    @torch.jit.ignore
    def folded(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight (out_chans, in_chans, 1, 1) and bias (out_chans,) of the equivalent convolution."""
        return fold_before(self.conv, *batch_norm_affine(self.norm))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer to x (B, in_chans, H, W)."""
        if not torch.jit.is_scripting() and self.mode == "tune":  # a script computes the same as in eval
            scale, shift = batch_norm_affine(self.norm)
            return folded_conv(self.conv, x, scale.reshape(1, -1, 1, 1), _bias_before(self.conv, shift))
        return self.conv(self.norm(x))


def set_conv_norm_mode(model: nn.Module, mode: ConvNormMode) -> nn.Module:
    """Switch every convolution with a batch norm in a model, in place.

    Batch norms without a convolution (`ModalBatchNorm2d`) use their running statistics in every mode except "train", so
    that the whole model computes the same function in the other three.

    Args:
        model: Any module.
        mode: "train", "eval", "tune" or "deploy", see the docstring of this module.

    Returns:
        The model itself.

    Raises:
        ValueError: There is no such mode, or the model has no layer with modes.
        RuntimeError: A layer is already merged.
    """
    layers = [module for module in model.modules() if isinstance(module, _ModalPair | ModalBatchNorm2d)]
    if not layers:
        raise ValueError(f"{type(model).__name__} has no ConvNormAct or NormConv, so it has no mode to set")
    for layer in layers:
        layer.set_mode(mode)
    return model


def _per_axis(value: int | Sequence[int], dims: int) -> list[int]:
    values = [value] * dims if isinstance(value, int) else list(value)
    if len(values) != dims:
        raise ValueError(f"{value!r} must be one number or {dims}, one for each space axis")
    return values
