"""Gradient checkpointing that updates running statistics only once."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

__all__ = ["recomputed"]


def recomputed(module: nn.Module, *args: Any, call: Callable[..., Any] | None = None) -> Any:
    """Call a module without storing its activations; the backward pass calls it again.

    The second call sees copies of the running statistics, so that batch norms count every batch once.

    Args:
        module: What to call.
        *args: Its arguments.
        call: A method of the module to call instead of the module itself.

    Returns:
        What the call returns.
    """
    function = module if call is None else call
    if torch.compiler.is_compiling():  # a compiled graph updates statistics once by itself
        return checkpoint(function, *args, use_reentrant=False)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _copied_statistics(module)

    return checkpoint(function, *args, use_reentrant=False, context_fn=contexts)


@contextmanager
def _copied_statistics(module: nn.Module) -> Iterator[None]:
    """Replace all running statistics with copies, and restore the originals at the end."""
    norms = [part for part in module.modules() if getattr(part, "running_mean", None) is not None]
    originals = [dict(norm._buffers) for norm in norms]
    try:
        for norm, buffers in zip(norms, originals, strict=True):
            norm._buffers.update({name: None if b is None else b.clone() for name, b in buffers.items()})
        yield
    finally:
        for norm, buffers in zip(norms, originals, strict=True):
            norm._buffers.update(buffers)
