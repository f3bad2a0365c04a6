"""What every model of the zoo offers beyond `forward`."""

import abc
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from typing_extensions import Self

__all__ = ["ZooModel"]

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
"""Memory formats by the number of axes."""


class ZooModel(nn.Module, abc.ABC):
    """Base class of all models, whatever their inputs are.

    Attributes:
        task: What the outputs are, for example "forecast" or "classification".
        modality: What the inputs are: "image", "video", "series", "graph" or "field".
        pretrained_cfg: The resolved configuration as a dictionary, set by the builder; `input_size` describes one input
            of this very model, without the batch axis, its axes named by `input_axes`.
        init_args: Arguments of the constructor that the builder passed, beside the defaults.
    """

    task: ClassVar[str]
    modality: ClassVar[str]
    pretrained_cfg: dict[str, Any]
    excluded_arguments: ClassVar[tuple[str, ...]] = ()
    """Arguments of the base class that a constructor with `**kwargs` does not take."""
    init_args: dict[str, Any]

    @abc.abstractmethod
    def example_inputs(self, batch_size: int = 1, generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
        """Valid forward arguments, on the model's device and in its dtype.

        Args:
            batch_size: Samples in the batch.
            generator: Source of the random values, a CPU generator; torch's global one by default.
        """

    def size_arguments(self, input_size: Sequence[int]) -> dict[str, Any]:
        """Arguments of the constructor for a model that speaks of another input size, with the same weights.

        Args:
            input_size: Sizes of one input, as in `pretrained_cfg`.

        Returns:
            The arguments by name; by default none, since most models are built for one size or speak of none.
        """
        return {}

    @classmethod
    def convert_state_dict(cls, state_dict: dict[str, Any], model: "ZooModel") -> dict[str, Any]:
        """Turn a published checkpoint's layout into this model's; a state dict in our layout passes unchanged."""
        return state_dict

    @torch.no_grad()
    def deploy(self) -> Self:
        """Apply every exact merge that the architecture allows, in place, for inference.

        Layers that can be merged have a method `fuse()`, as in timm. The model is put in eval mode; its outputs agree
        with the unmerged model's to rounding. Afterwards the state dict has the merged layout.

        Returns:
            The model itself.
        """
        self.eval()
        for module in self.modules():
            if module is not self and callable(fuse := getattr(module, "fuse", None)):
                fuse()
        return self

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move or convert the model as `nn.Module.to` does, with memory formats that suit models of mixed ranks.

        With `memory_format=torch.channels_last` or `torch.channels_last_3d`, tensors of four axes get the first and
        tensors of five axes the second, whichever is asked for: a model of clips has weights of both kinds.
        """
        channels_last = kwargs.get("memory_format") in _CHANNELS_LAST.values()
        if channels_last:
            kwargs = {name: value for name, value in kwargs.items() if name != "memory_format"}
        super().to(*args, **kwargs)
        if channels_last:
            for tensor in (*self.parameters(), *self.buffers()):
                if tensor.ndim in _CHANNELS_LAST:
                    tensor.data = tensor.data.contiguous(memory_format=_CHANNELS_LAST[tensor.ndim])
        return self

    def _example(self, *shape: int, generator: torch.Generator | None) -> torch.Tensor:
        parameter = next(self.parameters())
        return torch.randn(*shape, generator=generator).to(parameter.device, parameter.dtype)
