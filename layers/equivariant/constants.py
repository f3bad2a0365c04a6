"""Constant buffers that stay exact when a module changes its dtype."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

__all__ = ["ExactConstants"]


class ExactConstants(nn.Module):
    """Base class of modules with constant buffers whose values are known in float64.

    `module.double()` of a float32 module would keep the rounding of float32; here the buffers are made anew from their
    float64 values whenever the module moves or changes its type. Values loaded from a state dict replace the originals.
    """

    def __init__(self) -> None:
        super().__init__()
        self._exact: dict[str, torch.Tensor] = {}

    def register_constant(
        self,
        name: str,
        value: torch.Tensor,
        persistent: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Add a buffer `name` with the float64 values of `value`, in `dtype` on `device`."""
        self._exact[name] = value.detach().to("cpu", torch.float64)
        device = torch.get_default_device() if device is None else device
        buffer = self._exact[name].to(device, dtype or torch.get_default_dtype())
        self.register_buffer(name, buffer, persistent=persistent)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        for name, value in self._exact.items():
            setattr(self, name, value.to(getattr(self, name)))
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        for name, value in self._exact.items():
            loaded, buffer = state_dict.get(prefix + name), getattr(self, name)
            if loaded is None or loaded.shape != buffer.shape:
                continue
            if not torch.equal(value.to(loaded), loaded):  # else it is the same constant, rounded
                self._exact[name] = loaded.detach().to("cpu", torch.float64)
