"""Conversion between symmetric Cartesian tensors and their irreducible parts.

A symmetric 3 x 3 tensor is a trace, l = 0, and five components that mix under rotation as the spherical harmonics of
l = 2 do, in e3nn's order (with y as the polar axis): xz, xy, (2 y² - x² - z²) / 2 √3, yz, (z² - x²) / 2, up to one
factor. The basis is orthonormal, so that the norm of the six numbers is the Frobenius norm of the tensor.
"""

import math

import torch

__all__ = ["from_irreps", "symmetric_basis", "to_irreps"]


def symmetric_basis(dtype: torch.dtype = torch.float64, device: torch.device | str | None = None) -> torch.Tensor:
    """Orthonormal basis of symmetric tensors, (6, 3, 3): first the trace, then l = 2 for m = -2 .. 2."""
    basis = torch.zeros(6, 3, 3, dtype=torch.float64)
    basis[0] = torch.eye(3, dtype=torch.float64) / math.sqrt(3)
    for row, (i, j) in ((1, (0, 2)), (2, (0, 1)), (4, (1, 2))):
        basis[row, i, j] = basis[row, j, i] = 1 / math.sqrt(2)
    basis[3] = torch.diag(torch.tensor([-1.0, 2.0, -1.0], dtype=torch.float64)) / math.sqrt(6)
    basis[5] = torch.diag(torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)) / math.sqrt(2)
    return basis.to(dtype=dtype, device=device)


def to_irreps(tensor: torch.Tensor) -> torch.Tensor:
    """Irreducible parts (..., 6) of symmetric tensors (..., 3, 3); an antisymmetric part is dropped."""
    return torch.einsum("...ij,aij->...a", tensor, symmetric_basis(tensor.dtype, tensor.device))


def from_irreps(parts: torch.Tensor) -> torch.Tensor:
    """Symmetric tensors (..., 3, 3) from their irreducible parts (..., 6)."""
    return torch.einsum("...a,aij->...ij", parts, symmetric_basis(parts.dtype, parts.device))
