"""Base class of all models: what they offer besides `forward`."""

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
    """Base class of all models, for every kind of input.

    Attributes:
        task: What the outputs are, for example "forecast" or "classification".
        modality: What the inputs are: "image", "video", "series", "graph" or "field".
        any_size: Whether the axes of `x` after the channels may have other sizes than in `example_inputs`.
        trial_batches: Batch sizes to test an exported program with, if its batch size is free.
        excluded_arguments: Arguments of the base class that a constructor with `**kwargs` does not take.
        pretrained_cfg: The resolved configuration as a dictionary, set by the builder; `input_size` is the size of one
            input of this model, without the batch axis; `input_axes` names its axes.
        init_args: Arguments that the builder passed to the constructor, without the defaults.
    """

    task: ClassVar[str]
    modality: ClassVar[str]
    any_size: ClassVar[bool] = False
    trial_batches: ClassVar[tuple[int, int]] = (5, 1)
    excluded_arguments: ClassVar[tuple[str, ...]] = ()
    pretrained_cfg: dict[str, Any]
    init_args: dict[str, Any]

    @abc.abstractmethod
    def example_inputs(self, batch_size: int = 1, generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
        """Valid forward arguments, on the model's device and in its dtype.

        Args:
            batch_size: Samples in the batch.
            generator: Source of the random values, a CPU generator; torch's global one by default.
        """

    def size_arguments(self, input_size: Sequence[int]) -> dict[str, Any]:
        """Constructor arguments for a model with another nominal input size and the same weights.

        Args:
            input_size: Sizes of one input, as in `pretrained_cfg`.

        Returns:
            The arguments by name. By default there are none, since most models have one size or no nominal size.
        """
        return {}

    def size_steps(self) -> tuple[int, ...]:
        """Steps of the free input sizes of an exported program, one for each axis after the channels.

        Raises:
            ValueError: The size is fixed, always or in an exported program. The default always raises this.
        """
        raise ValueError(f"{type(self).__name__} is exported for one size of input")

    def export_inputs(self, batch_size: int = 1, size: Sequence[int] | None = None) -> dict[str, torch.Tensor]:
        """Forward arguments to trace and test a program with: `example_inputs`, at another size if one is given.

        Args:
            batch_size: Samples in the batch.
            size: Sizes of the axes of `x` after the channels.

        Raises:
            ValueError: The model's size is fixed, or `size` has another number of axes.
        """
        inputs = self.example_inputs(batch_size)
        if size is None:
            return inputs
        if not self.any_size:
            raise ValueError(f"size={tuple(size)}: {type(self).__name__} takes no other size")
        x = inputs["x"]
        if len(size) != x.ndim - 2 or min(size) < 1:
            raise ValueError(f"size={tuple(size)} must be {x.ndim - 2} positive numbers, the axes behind the channels")
        return {**inputs, "x": torch.randn(*x.shape[:2], *size).to(x)}

    @classmethod
    def convert_state_dict(cls, state_dict: dict[str, Any], model: "ZooModel") -> dict[str, Any]:
        """Turn a published checkpoint's layout into this model's; a state dict in our layout passes unchanged."""
        return state_dict

    @torch.no_grad()
    def deploy(self) -> Self:
        """Merge layers for inference, in place, wherever the result stays exact.

        Layers that can be merged have a method `fuse()`, as in timm. The model is put in eval mode; apart from
        rounding, its outputs stay the same. Afterwards the state dict has the merged layout.

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
        tensors of five axes the second, for either value: a model of clips has weights of both kinds.
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
