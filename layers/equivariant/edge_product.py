"""Product of features with the spherical harmonics of an edge, as one matrix per edge.

A message couples many channels of a feature with one vector of spherical harmonics y. If all paths share one weight for
each channel, the product is linear in the feature with a matrix that depends on the edge alone, M_ki = sum_j T_ijk y_j.
It is exact for every coupling tensor T and costs (l_max + 1)^4 multiplications for each channel, whatever the rank of
T.

Source: own derivation; the model that shares path weights is "Tensor Decomposition Networks for Fast Machine Learning
Interatomic Potential Computations" (2025), section 3.2.
"""

from typing import Any

import torch

from blockzoo.layers.equivariant.constants import ExactConstants
from blockzoo.layers.spectral.factorized_tensor import reconstruct

__all__ = ["EdgeProduct"]


class EdgeProduct(ExactConstants):
    """Product of features with the harmonics of edges, from a coupling tensor or from its CP factors.

    Args:
        tensor: Coupling tensor (d1, d2, d3) of feature, harmonics and result, see
            `blockzoo.layers.equivariant.coupling`.
        factors: Instead of `tensor`, CP factors (d1, R), (d2, R), (d3, R). They are part of the state dict.
        device: Device of the constants.
        dtype: Type of the constants.

    Raises:
        ValueError: Not exactly one of tensor and factors is given.
    """

    tensor: torch.Tensor
    a: torch.Tensor
    b: torch.Tensor
    c: torch.Tensor

    def __init__(
        self,
        tensor: torch.Tensor | None = None,
        factors: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None,
        **dd: Any,
    ) -> None:
        super().__init__()
        if (tensor is None) == (factors is None):
            raise ValueError("give either a coupling tensor or the factors of one")
        self.from_factors = factors is not None
        if factors is not None:
            for name, factor in zip("abc", factors, strict=True):
                self.register_constant(name, factor, persistent=True, **dd)
        else:
            assert tensor is not None
            self.register_constant("tensor", tensor, **dd)

    def coupling(self) -> torch.Tensor:
        """The tensor (d1, d2, d3)."""
        if not self.from_factors:
            return self.tensor
        return reconstruct("cp", (torch.ones_like(self.a[0]), self.a, self.b, self.c), False)

    def matrix(self, y: torch.Tensor) -> torch.Tensor:
        """Matrices (E, d3, d1) of edges with harmonics (E, d2)."""
        tensor = self.coupling()
        rows = tensor.permute(1, 2, 0).reshape(tensor.shape[1], -1)
        return (y @ rows.to(y.dtype)).unflatten(-1, (tensor.shape[2], tensor.shape[0]))

    def forward(self, x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
        """Couple features and harmonics of edges.

        Args:
            x: Features, (E, d1, C).
            y: Spherical harmonics, (E, d2).
            weight: One factor for each edge and channel, (E, C).

        Returns:
            (E, d3, C).
        """
        out = torch.bmm(self.matrix(y), x)
        return out if weight is None else out * weight.unsqueeze(1)
