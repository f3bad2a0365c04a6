"""Segments, radial functions, and layers on features of several degrees."""

import math

import pytest
import torch

from blockzoo.layers.equivariant.edge_attention import smooth_leaky_relu
from blockzoo.layers.equivariant.irreps import Gate, IrrepsLayerNorm, IrrepsLinear, IrrepsRMSNorm
from blockzoo.layers.equivariant.radial import BesselBasis, GaussianBasis, RadialMLP, polynomial_envelope
from blockzoo.layers.equivariant.segment import segment_softmax, segment_sum

DOUBLE = {"dtype": torch.double}


def test_segments_against_loops():
    x, index = torch.randn(9, 2, **DOUBLE), torch.tensor([3, 0, 0, 3, 1, 3, 0, 4, 4])
    weight = torch.rand(9, 1, **DOUBLE)
    total, plain = segment_sum(x, index, 6), segment_softmax(x, index, 6)
    weighted = segment_softmax(x, index, 6, weight)
    for segment in range(6):
        rows = x[index == segment]
        torch.testing.assert_close(total[segment], rows.sum(0))
        torch.testing.assert_close(plain[index == segment], rows.softmax(0))
        expected = (rows + weight[index == segment].log()).softmax(0)
        torch.testing.assert_close(weighted[index == segment], expected)


def test_segment_softmax_is_stable_and_differentiable():
    index = torch.tensor([0, 0, 1, 1])
    large = segment_softmax(torch.tensor([[1000.0], [1001.0], [-1000.0], [-1001.0]]), index, 3)
    torch.testing.assert_close(large[:2].sum(), torch.tensor(1.0))
    assert segment_softmax(torch.zeros(0, 2), index[:0], 2).shape == (0, 2)
    gone = segment_softmax(torch.zeros(2, 1), index[:2], 1, torch.zeros(2, 1))
    assert gone.eq(0).all()  # two neighbours right on the cutoff
    logits, weight = torch.randn(4, 2, **DOUBLE).requires_grad_(), torch.rand(4, 1, **DOUBLE).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda a, b: segment_softmax(a, index, 3, b), (logits, weight))


@pytest.mark.parametrize("power", [3, 6])
def test_envelope_ends_with_two_continuous_derivatives(power):
    r = torch.tensor([1e-9, 2.5 - 1e-7, 2.5, 2.6], **DOUBLE, requires_grad=True)
    value = polynomial_envelope(r, 2.5, power)
    (first,) = torch.autograd.grad(value.sum(), r, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), r)
    torch.testing.assert_close(value.detach(), torch.tensor([1.0, 0, 0, 0], **DOUBLE), atol=1e-12, rtol=0)
    assert first.abs().max() < 1e-10 and second[1:].abs().max() < 1e-4


def test_radial_functions():
    r = torch.linspace(0.0, 5.0, 7, **DOUBLE)
    basis = GaussianBasis(5, 4.5, **DOUBLE)
    u = (basis.weight * r / 4.5 + basis.bias).unsqueeze(1)
    std = basis.std.abs() + 1e-5
    torch.testing.assert_close(basis(r), (-0.5 * ((u - basis.mean) / std) ** 2).exp() / (math.sqrt(2 * math.pi) * std))
    bessel = BesselBasis(4, 5.0, **DOUBLE)
    n = torch.arange(1, 5, **DOUBLE)
    expected = math.sqrt(2 / 5) * torch.sin(n * math.pi * r[1:, None] / 5) / r[1:, None]
    torch.testing.assert_close(bessel(r)[1:], expected)
    assert bessel(r).isfinite().all() and bessel(r)[-1].abs().max() < 1e-12
    assert RadialMLP(5, 8, 3, **DOUBLE)(basis(r)).shape == (7, 3)


def test_linear_keeps_its_bias_to_degree_zero():
    linear = IrrepsLinear(3, 5, **DOUBLE)
    linear.bias.data.normal_()
    x = torch.randn(4, 9, 3, **DOUBLE)
    expected = x @ linear.weight.T
    expected[:, 0] += linear.bias
    torch.testing.assert_close(linear(x), expected)
    torch.testing.assert_close(linear(x[:, :1]), expected[:, :1])  # leading degrees alone


def test_layer_norm_by_degrees():
    norm = IrrepsLayerNorm(6, 2, **DOUBLE)
    norm.weight.data.normal_()
    norm.bias.data.normal_()
    x = 3 * torch.randn(4, 9, 6, **DOUBLE) + 1
    y = norm(x)
    centred = x[:, 0] - x[:, 0].mean(1, keepdim=True)
    scale = (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(y[:, 0], centred / scale * norm.weight[0] + norm.bias)
    for degree in (1, 2):
        part = x[:, degree**2 : (degree + 1) ** 2]
        scale = (part.square().mean((1, 2), keepdim=True) + 1e-5).sqrt()
        torch.testing.assert_close(y[:, degree**2 : (degree + 1) ** 2], part / scale * norm.weight[degree])
    torch.testing.assert_close(norm(x[:, :1]), y[:, :1])
    assert IrrepsLayerNorm(6, 2)(x.bfloat16()).dtype == torch.float32


def test_joint_norm_has_one_denominator_and_keeps_what_vanishes_small():
    norm = IrrepsRMSNorm(6, 2, **DOUBLE)
    norm.weight.data.normal_()
    norm.bias.data.normal_()
    x = 3 * torch.randn(4, 9, 6, **DOUBLE) + 1
    degrees = [x[:, :1] - x[:, :1].mean(2, keepdim=True), x[:, 1:4], x[:, 4:]]
    scale = (torch.stack([part.square().mean((1, 2)) for part in degrees]).mean(0) + 1e-5).sqrt().view(4, 1, 1)
    expected = torch.cat([part / scale * norm.weight[degree] for degree, part in enumerate(degrees)], 1)
    expected[:, 0] += norm.bias
    torch.testing.assert_close(norm(x), expected)
    tiny = torch.cat([x[:, :1], 1e-5 * x[:, 1:]], 1)
    published = IrrepsLayerNorm(6, 2, **DOUBLE)
    assert IrrepsRMSNorm(6, 2, **DOUBLE)(tiny)[:, 1:].abs().max() < 2e-4
    assert published(tiny)[:, 1:].abs().max() > 2e-3
    assert IrrepsRMSNorm(6, 2)(x.bfloat16()).dtype == torch.float32


def test_gate_and_leaky_relu():
    x, gates = torch.randn(4, 4, 3), torch.randn(4, 3)
    y = Gate()(x, gates)
    torch.testing.assert_close(y[:, 0], torch.nn.functional.silu(x[:, 0]))
    torch.testing.assert_close(y[:, 1:], x[:, 1:] * gates.sigmoid()[:, None])
    t = torch.linspace(-9, 9, 5)
    published = 0.6 * t + 0.4 * t * (2 * t.sigmoid() - 1)
    torch.testing.assert_close(smooth_leaky_relu(t), published)
