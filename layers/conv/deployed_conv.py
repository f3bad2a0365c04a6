"""Convolution for inference: activation in the same pass, and on a CPU weights that are rearranged once, not per call.

oneDNN, which runs PyTorch's CPU convolutions, needs weights in its own order, and rearranges them in every call. In a
layer with many weights and few pixels (batch 1, deep stages), that costs as much as the arithmetic. Inductor keeps
rearranged weights when it freezes a model; `DeployedConv2d` does the same in eager mode, with the same operators.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import nn

__all__ = ["DeployedConv2d", "deploy_convolutions", "runs_eagerly_on_cpu"]

_POST_OPS: dict[type[nn.Module], tuple[str, str]] = {
    nn.Identity: ("none", ""),
    nn.ReLU: ("relu", ""),
    nn.SiLU: ("swish", ""),
    nn.GELU: ("gelu", "none"),
}
"""What oneDNN calls an activation, and its variant."""


def runs_eagerly_on_cpu(x: torch.Tensor) -> bool:
    """Whether an operation on x is run now, on a CPU and for inference: not recorded, compiled, exported or traced."""
    return (
        type(x) is torch.Tensor
        and x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )


@register_notrace_module
class DeployedConv2d(nn.Conv2d):
    """A trained convolution and the activation after it, for inference.

    The fast form is used on a CPU in float32 when no gradient is recorded and nothing is compiled, exported, scripted
    or cast; it needs a PyTorch with oneDNN. In every other case the layer is the ordinary convolution followed by the
    activation: the same function apart from rounding, differentiable and exportable. The rearranged copy doubles the
    memory of the weights; it is made at the first call, follows changes of the weights and of the input's shape, and is
    neither saved nor copied.

    Args:
        conv: The convolution, whose parameters are shared; zero padding by numbers.
        act: The activation, a module that oneDNN knows (ReLU, SiLU, exact GELU), or any other, which then runs as a
            separate step.

    Shape:
        That of `conv`. In the fast form the result is in channels-last memory.
    """

    __jit_ignored_attributes__ = ["_packed", "_packed_from"]

    def __init__(self, conv: nn.Conv2d, act: nn.Module | None = None) -> None:
        if isinstance(conv.padding, str) or conv.padding_mode != "zeros":
            raise ValueError(
                f"conv has padding={conv.padding!r}, mode {conv.padding_mode!r}; only numbers of zeros work"
            )
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            conv.groups,
            bias=False,
            device="meta",
        )
        self.weight, self.bias = conv.weight, conv.bias
        act = nn.Identity() if act is None else act
        known = type(act) in _POST_OPS and getattr(act, "approximate", "none") == "none"
        self.act: nn.Module = act
        self._post_op = _POST_OPS[type(act)] if known else ("none", "")
        self._act_inside = known
        self._packed: Any = None
        self._packed_from: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """The state without the rearranged weights, which cannot be copied."""
        return {**self.__dict__, "_packed": None, "_packed_from": None}

    @torch.jit.ignore
    def _is_fast(self, x: torch.Tensor) -> bool:
        return bool(
            runs_eagerly_on_cpu(x)
            and x.dtype == self.weight.dtype == torch.float32
            and self.weight.device.type == "cpu"
            and x.ndim == 4
            and x.numel() > 0
            and torch.backends.mkldnn.is_available()
            and torch.backends.mkldnn.enabled
            and not torch.is_autocast_enabled("cpu")
        )

    @torch.jit.ignore
    def _pack(self, x: torch.Tensor) -> torch.Tensor:
        """Rearrange the weights for inputs of x's shape, if that was not done yet; x is in channels-last memory."""
        version = 0 if self.weight.is_inference() else self.weight._version
        source = (self.weight.data_ptr(), version, tuple(x.shape))  # oneDNN's order depends on the shape
        geometry: Any = (self.padding, self.stride, self.dilation, self.groups)
        x = x.contiguous(memory_format=torch.channels_last)
        if self._packed is None or self._packed_from != source:
            opaque = self.weight.detach().to_mkldnn()
            reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
            self._packed = reorder(opaque, *geometry, list(x.shape))
            self._packed_from = source
        return x

    @torch.jit.ignore
    def _run_packed(self, x: torch.Tensor) -> torch.Tensor:
        x = self._pack(x)
        geometry: Any = (self.padding, self.stride, self.dilation, self.groups)
        y: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self._packed, self.bias, *geometry, self._post_op[0], [], self._post_op[1]
        )
        return y if self._act_inside else self.act(y)

    @torch.jit.ignore
    def add_relu(self, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """relu(conv(x) + other), in one pass in the fast form; only for a layer without its own activation."""
        if not self._is_fast(x) or other.dtype != torch.float32:
            return F.relu(self(x) + other)
        x = self._pack(x)
        other = other.contiguous(memory_format=torch.channels_last)
        geometry: Any = (self.padding, self.stride, self.dilation, self.groups)
        rest: Any = ("add", 1.0, "relu", [], None)
        y: torch.Tensor = torch.ops.mkldnn._convolution_pointwise.binary(
            x, other, self._packed, self.bias, *geometry, *rest
        )
        return y

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer to x (B, in_channels, H, W)."""
        if not torch.jit.is_scripting() and self._is_fast(x):
            return self._run_packed(x)
        return self.act(self._conv_forward(x, self.weight, self.bias))


def deploy_convolutions(model: nn.Module) -> None:
    """Replace every plain `torch.nn.Conv2d` inside a model by `DeployedConv2d`, in place; names stay the same."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Conv2d and child.padding_mode == "zeros" and not isinstance(child.padding, str):
                setattr(module, name, DeployedConv2d(child))
