"""Functions of the distance between two atoms: bases, cutoff envelope, and an MLP that turns them into weights.

Sources: Gaussian basis, "Do Transformers Really Perform Badly for Graph Representation?" (2021), as the TDN code uses
it; Bessel basis and polynomial envelope, "Directional Message Passing for Molecular Graphs" (2020), equations 7 and 8.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["BesselBasis", "GaussianBasis", "RadialMLP", "polynomial_envelope"]


def polynomial_envelope(distance: torch.Tensor, cutoff: float, power: int = 6) -> torch.Tensor:
    """Smooth cutoff: 1 at distance 0 and 0 from `cutoff` on, with continuous first and second derivatives there.

    Args:
        distance: Any shape.
        cutoff: In the unit of `distance`.
        power: Lowest power of distance / cutoff; the higher, the later the function falls.
    """
    x = distance / cutoff
    a, b, c = (power + 1) * (power + 2) / 2, power * (power + 2), power * (power + 1) / 2
    value = 1 - x.pow(power) * (a - x * (b - c * x))
    return torch.where(x < 1, value, 0).to(distance.dtype)


class GaussianBasis(nn.Module):
    """Normalised Gaussians of an affine function of distance / cutoff, all parameters learned.

    Args:
        num_basis: Number of functions.
        cutoff: Å.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Shape:
        (E,) -> (E, num_basis).
    """

    def __init__(self, num_basis: int, cutoff: float, **dd: Any) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.mean = nn.Parameter(torch.rand(num_basis, **dd))
        self.std = nn.Parameter(torch.empty(num_basis, **dd).uniform_(1 / num_basis, 1))
        self.weight = nn.Parameter(torch.ones((), **dd))
        self.bias = nn.Parameter(torch.zeros((), **dd))

    def forward(self, distance: torch.Tensor) -> torch.Tensor:
        """Values at distances."""
        u = (self.weight / self.cutoff * distance + self.bias).unsqueeze(-1)
        inverse = (self.std.abs() + 1e-5).reciprocal()
        # One exponential of a square with the factors folded in: the basis has many more values than parameters.
        scaled = (u - self.mean) * (inverse * math.sqrt(0.5))
        return scaled.square().neg().exp() * (inverse / math.sqrt(2 * math.pi))


class BesselBasis(nn.Module):
    """Spherical Bessel functions of order 0 that vanish at the cutoff, with learned frequencies.

    Args:
        num_basis: Number of functions.
        cutoff: Å.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Shape:
        (E,) -> (E, num_basis).
    """

    def __init__(self, num_basis: int, cutoff: float, **dd: Any) -> None:
        super().__init__()
        self.cutoff = cutoff
        count = torch.arange(1, num_basis + 1, dtype=torch.float64, device=dd.get("device"))
        self.frequency = nn.Parameter((math.pi * count).to(dd.get("dtype") or torch.get_default_dtype()))

    def forward(self, distance: torch.Tensor) -> torch.Tensor:
        """Values at distances, finite at 0."""
        x = (distance / self.cutoff).unsqueeze(-1)
        phase = self.frequency * x
        return math.sqrt(2 / self.cutoff) / self.cutoff * self.frequency * torch.sinc(phase / math.pi)


class RadialMLP(nn.Module):
    """MLP from radial basis functions to one weight for each channel: two hidden layers with layer norm and SiLU.

    Args:
        num_basis: Number of basis functions.
        hidden: Width of the hidden layers.
        out: Number of weights.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Shape:
        (E, num_basis) -> (E, out).
    """

    def __init__(self, num_basis: int, hidden: int, out: int, **dd: Any) -> None:
        super().__init__()
        self.fc1 = nn.Linear(num_basis, hidden, **dd)
        self.norm1 = nn.LayerNorm(hidden, **dd)
        self.fc2 = nn.Linear(hidden, hidden, **dd)
        self.norm2 = nn.LayerNorm(hidden, **dd)
        self.fc3 = nn.Linear(hidden, out, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Weights."""
        x = F.silu(self.norm1(self.fc1(x)))
        return self.fc3(F.silu(self.norm2(self.fc2(x))))
