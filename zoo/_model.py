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
        any_size: Whether `x` may have other sizes behind its channels than those of `example_inputs`.
        trial_batches: Batch sizes that an exported program with a free batch is tried with.
        excluded_arguments: Arguments of the base class that a constructor with `**kwargs` does not take.
        pretrained_cfg: The resolved configuration as a dictionary, set by the builder; `input_size` describes one input
            of this very model, without the batch axis, its axes named by `input_axes`.
        init_args: Arguments of the constructor that the builder passed, beside the defaults.
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
        """Arguments of the constructor for a model that speaks of another input size, with the same weights.

        Args:
            input_size: Sizes of one input, as in `pretrained_cfg`.

        Returns:
            The arguments by name; by default none, since most models are built for one size or speak of none.
        """
        return {}

    def size_steps(self) -> tuple[int, ...]:
        """Of which numbers the free sizes of an exported program's input are multiples, by axis behind the channels.

        Raises:
            ValueError: The architecture fixes the size, or fixes it in an exported program; here, all do.
        """
        raise ValueError(f"{type(self).__name__} is exported for one size of input")

    def export_inputs(self, batch_size: int = 1, size: Sequence[int] | None = None) -> dict[str, torch.Tensor]:
        """Forward arguments to trace a program with and to try it on: `example_inputs`, at another size if given.

        Args:
            batch_size: Samples in the batch.
            size: The axes of `x` behind the channels.

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
