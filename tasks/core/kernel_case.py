"""Cases of `blockzoo bench kernels`: an operation at a size, its least possible time, and its peers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

__all__ = ["Case", "Cases", "Peer", "draw"]


@dataclass
class Peer:
    """Another implementation of a case's function.

    Attributes:
        function: The function to time.
        inputs: Its arguments; None for those of the case.
        to_ours: Converts its result to our layout, for comparison.
    """

    function: Callable[..., Any]
    inputs: list[Any] | None = None
    to_ours: Callable[[torch.Tensor], torch.Tensor] | None = None


@dataclass
class Case:
    """One operation at one size.

    Attributes:
        kernel: File of the kernel, or of the layer.
        launches: Names of its launch configurations; none if blockzoo has no kernel for the operation.
        size: Text for people.
        inputs: Arguments of all variants.
        ours: The public function.
        reference: Plain torch.
        flops: Operations of the forward pass.
        moved: Bytes that the operation must move.
        peers: Other implementations of the same function.
        trained: How many of the inputs get gradients, counted from the first; None for all, 0 for no training.
    """

    kernel: str
    launches: Mapping[str, Mapping[str, list[int]]]
    size: str
    inputs: list[Any]
    ours: Callable[..., Any]
    reference: Callable[..., Any]
    flops: float
    moved: float
    peers: dict[str, Peer] = field(default_factory=dict)
    trained: int | None = None


@dataclass(frozen=True)
class Cases:
    """The cases of one kernel.

    Attributes:
        make: Makes a case from sizes and a device.
        large: Sizes for a GPU.
        small: Sizes for a CPU.
    """

    make: Callable[..., Case]
    large: list[tuple[int, ...]]
    small: tuple[int, ...]


def draw(*shape: int, device: str) -> torch.Tensor:
    """Normal noise on a device."""
    return torch.randn(*shape, device=device)
