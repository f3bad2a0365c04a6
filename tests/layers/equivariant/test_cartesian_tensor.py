"""Symmetric tensors and their irreducible parts: exact, orthonormal, and rotating as e3nn says."""

import torch
from e3nn import o3

from blockzoo.layers.equivariant.cartesian_tensor import from_irreps, symmetric_basis, to_irreps


def symmetric(*shape):
    tensor = torch.randn(*shape, 3, 3, dtype=torch.double)
    return tensor + tensor.mT


def test_there_and_back_is_the_same_and_norms_agree():
    tensor = symmetric(5, 2)
    parts = to_irreps(tensor)
    torch.testing.assert_close(from_irreps(parts), tensor, rtol=0, atol=1e-14)
    torch.testing.assert_close(parts.norm(dim=-1), tensor.norm(dim=(-2, -1)), rtol=1e-14, atol=0)
    torch.testing.assert_close(parts[..., 0], tensor.diagonal(dim1=-2, dim2=-1).sum(-1) / 3**0.5)


def test_parts_rotate_as_0e_and_2e():
    rotation = o3.rand_matrix(dtype=torch.double)
    wigner = o3.Irreps("0e+2e").D_from_matrix(rotation)
    tensor = symmetric(4)
    rotated = to_irreps(rotation @ tensor @ rotation.T)
    torch.testing.assert_close(rotated, to_irreps(tensor) @ wigner.T.double(), rtol=0, atol=1e-5)


def test_the_l2_part_of_a_dyad_is_the_spherical_harmonic():
    vector = torch.randn(3, dtype=torch.double)
    parts = to_irreps(torch.outer(vector, vector))[1:]
    harmonic = o3.spherical_harmonics(2, vector, normalize=False, normalization="component")
    torch.testing.assert_close(parts / parts.norm(), harmonic / harmonic.norm(), rtol=0, atol=1e-12)


def test_an_antisymmetric_part_is_dropped_and_the_basis_is_orthonormal():
    tensor = torch.randn(3, 3, dtype=torch.double)
    torch.testing.assert_close(from_irreps(to_irreps(tensor)), (tensor + tensor.T) / 2)
    basis = symmetric_basis().flatten(1)
    torch.testing.assert_close(basis @ basis.T, torch.eye(6, dtype=torch.double))
