"""Spherical harmonics: e3nn's values, conventions stated as numbers, all derivatives."""

import math

import pytest
import torch
from e3nn import o3

from blockzoo.layers.equivariant.spherical_harmonics import spherical_harmonics


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("normalization", ["component", "integral", "norm"])
def test_values_are_e3nns(normalization, normalize):
    vectors = torch.randn(40, 3, dtype=torch.double)
    theirs = o3.spherical_harmonics(list(range(8)), vectors, normalize, normalization)
    ours = spherical_harmonics(vectors, 7, normalization, normalize)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12 * float(theirs.abs().max()))


def test_order_and_axes():
    x, y, z = torch.eye(3, dtype=torch.double)
    values = spherical_harmonics(torch.stack([x, y, z]), 2)
    root = math.sqrt(3)
    expected = torch.tensor([[1, root, 0, 0], [1, 0, root, 0], [1, 0, 0, root]], dtype=torch.double)
    torch.testing.assert_close(values[:, :4], expected)
    assert values[1, 6] == pytest.approx(math.sqrt(5))  # l = 2, m = 0 points along y
    torch.testing.assert_close(values.square().sum(1), torch.full((3,), 9.0, dtype=torch.double))


@pytest.mark.parametrize("normalize", [True, False])
def test_first_and_second_derivatives(normalize):
    vectors = torch.randn(4, 3, dtype=torch.double)
    vectors[0] = torch.tensor([0.0, 1.3, 0.0])  # the pole, where angles would have no derivative
    vectors.requires_grad_()

    def function(v):
        return spherical_harmonics(v, 3, normalize=normalize)

    assert torch.autograd.gradcheck(function, vectors)
    assert torch.autograd.gradgradcheck(function, vectors)


def test_rotations_act_as_the_golden_wigner_matrices(golden):
    case = golden("gaunt_l3")
    vectors = torch.randn(5, 3, dtype=torch.double)
    for rotation, wigner in zip(case.array("extra_rot"), case.array("extra_wigner_d"), strict=True):
        rotated = spherical_harmonics(vectors @ rotation.T, 6)
        torch.testing.assert_close(rotated, spherical_harmonics(vectors, 6) @ wigner.T, rtol=1e-10, atol=1e-10)


def test_zero_vectors_and_errors():
    values = spherical_harmonics(torch.zeros(2, 3), 1)
    assert values[:, 0].eq(1).all() and values[:, 1:].eq(0).all()
    with pytest.raises(ValueError, match="l_max=-1"):
        spherical_harmonics(torch.zeros(2, 3), -1)
    with pytest.raises(ValueError, match="normalization='racah'"):
        spherical_harmonics(torch.zeros(2, 3), 1, "racah")
    with pytest.raises(ValueError, match=r"vectors has shape \(2, 2\)"):
        spherical_harmonics(torch.zeros(2, 2), 1)
