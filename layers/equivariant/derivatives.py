"""Energies and their gradients, in every mode that a model runs in."""

from collections.abc import Callable

import torch

__all__ = ["value_and_slope"]


def value_and_slope(
    function: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]], x: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """For function(x) = (sum, parts): parts and the gradient of the sum, differentiable where gradients are enabled."""
    if torch.compiler.is_exporting():
        raise RuntimeError(
            "torch.export cannot trace gradients; use blockzoo.tasks.molecules.export.export_program, which exports "
            "energies and forces, or forces='direct'"
        )
    if torch.compiler.is_dynamo_compiling():  # which traces transforms of functions, and not autograd.grad
        slope, (_, parts) = torch.func.grad_and_value(function, has_aux=True)(x)
        return parts, slope
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        if not x.requires_grad:
            x = x.detach().requires_grad_()
        total, parts = function(x)
        (slope,) = torch.autograd.grad([total], [x], create_graph=again)
    return (parts, slope) if again else (parts.detach(), slope)
