"""Powers of functions on the sphere, for many-body features.

Source: "Enabling Efficient Equivariant Operations in the Fourier Basis via Gaunt Tensor Products" (2024), for the
product basis of "MACE: Higher Order Equivariant Message Passing Neural Networks for Fast and Accurate Force Fields"
(2022).
"""

from typing import Any

import torch
from torch import nn

from blockzoo.layers.equivariant.constants import ExactConstants
from blockzoo.layers.equivariant.coupling import sphere_grid
from blockzoo.layers.equivariant.irreps import component_degrees
from blockzoo.layers.equivariant.spherical_harmonics import spherical_harmonics

__all__ = ["GauntProductBasis", "SphericalPower"]


class SphericalPower(ExactConstants):
    """Powers of a function on the sphere, from and to coefficients of integral-normalised harmonics.

    Args:
        l_max: Highest degree of the function.
        power: Highest power, at least 1.
        l_max_out: Highest degree of the results; `l_max` by default.
        device: Device of the constants.
        dtype: Type of the constants.

    Shape:
        (..., (l_max + 1)², C) -> (power, ..., (l_max_out + 1)², C): the first power, the second, and so on.

    Raises:
        ValueError: The power is not positive or a degree negative.
    """

    to_grid: torch.Tensor
    from_grid: torch.Tensor

    def __init__(self, l_max: int, power: int, l_max_out: int | None = None, **dd: Any) -> None:
        super().__init__()
        l_max_out = l_max if l_max_out is None else l_max_out
        if power < 1 or min(l_max, l_max_out) < 0:
            raise ValueError(f"power={power} must be at least 1, l_max={l_max} and l_max_out={l_max_out} at least 0")
        self.power = power
        points, weights = sphere_grid(power * l_max + l_max_out)
        self.register_constant("to_grid", spherical_harmonics(points, l_max, "integral", normalize=False), **dd)
        back = spherical_harmonics(points, l_max_out, "integral", normalize=False)
        self.register_constant("from_grid", (back * weights.unsqueeze(1)).T.contiguous(), **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """All powers up to the highest."""
        f = self.to_grid.to(x.dtype) @ x
        powers = [f]
        for _ in range(self.power - 1):
            powers.append(powers[-1] * f)
        return self.from_grid.to(x.dtype) @ torch.stack(powers)


class GauntProductBasis(nn.Module):
    """Many-body features: weighted powers of the function on the sphere that a node's features describe.

    The product basis of MACE with the Gaunt product: sum over n of weight_n[element, l, channel] * (f^n)_l.

    Args:
        l_max: Highest degree of the features.
        correlation: Highest power.
        num_elements: Kinds of nodes, each with its own weights.
        channels: Channels.
        l_max_out: Highest degree of the result; `l_max` by default.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Shape:
        features (N, (l_max + 1)², C) and kinds (N,) -> (N, (l_max_out + 1)², C).
    """

    degrees: torch.Tensor

    def __init__(
        self,
        l_max: int,
        correlation: int,
        num_elements: int,
        channels: int,
        l_max_out: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        l_max_out = l_max if l_max_out is None else l_max_out
        self.power = SphericalPower(l_max, correlation, l_max_out, device=device, dtype=dtype)
        shape = (correlation, num_elements, l_max_out + 1, channels)
        self.weight = nn.Parameter(torch.randn(shape, device=device, dtype=dtype) / correlation)
        degrees = torch.tensor(component_degrees(l_max_out), device=device)
        self.register_buffer("degrees", degrees, persistent=False)

    def forward(self, x: torch.Tensor, element: torch.Tensor) -> torch.Tensor:
        """Features of nodes, of kinds from 0 to num_elements - 1."""
        weight = self.weight.index_select(1, element).index_select(2, self.degrees)
        return (self.power(x) * weight).sum(0)
