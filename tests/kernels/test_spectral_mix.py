"""Spectral mixing: definition, derivatives, registration, dispatch, compiled launches, use by the layer."""

import importlib

import pytest
import torch

from blockzoo.kernels._dispatch import kernels_as
from blockzoo.kernels._testing import compiled_launches
from blockzoo.kernels.spectral_mix import mode_product, spectral_mix
from blockzoo.layers.spectral.spectral_conv import SpectralConv

module = importlib.import_module("blockzoo.kernels.spectral_mix")


def arguments(dtype=torch.float32, samples=2, modes=3, chans=4, out_chans=5):
    x = torch.randn(samples, 2, modes, chans, dtype=dtype)
    return x, torch.randn(modes, chans, out_chans, 2, dtype=dtype)


@pytest.mark.parametrize("mode", ["torch", "triton"])
def test_it_is_the_complex_product_of_each_mode(mode):
    x, weight = arguments()
    expected = torch.einsum("bmi,mio->bmo", torch.complex(*x.unbind(1)), torch.view_as_complex(weight))
    with kernels_as(mode):
        out = spectral_mix(x, weight)
    torch.testing.assert_close(torch.complex(*out.unbind(1)), expected)


@pytest.mark.parametrize("conj_a", [True, False])
@pytest.mark.parametrize("conj_b", [True, False])
def test_derivatives_close_under_the_form(conj_a, conj_b):
    a = torch.randn(1, 2, 2, 1, dtype=torch.float64, requires_grad=True)
    b = torch.randn(1, 1, 2, 2, dtype=torch.float64, requires_grad=True)

    def function(a, b):
        return mode_product(a, b.permute(0, 3, 1, 2), conj_a, conj_b, False)

    assert torch.autograd.gradcheck(function, (a, b))
    assert torch.autograd.gradgradcheck(function, (a, b))


def test_gradients_are_stored_as_what_they_are_gradients_of():
    x, weight = (tensor.requires_grad_() for tensor in arguments())
    with kernels_as("triton"):
        spectral_mix(x, weight).square().sum().backward()
    assert x.grad.is_contiguous() and weight.grad.is_contiguous()


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # opcheck reads it
def test_registration_is_sound():
    a, b = torch.randn(3, 2, 2, 4, requires_grad=True), torch.randn(3, 4, 5, 2, requires_grad=True)
    torch.library.opcheck(mode_product, (a, b.permute(0, 3, 1, 2), False, True, False))
    torch.library.opcheck(mode_product, (a.detach(), b.permute(0, 3, 1, 2).detach(), True, False, True))


def test_shapes_that_do_not_fit_are_named():
    x, weight = arguments()
    with pytest.raises(ValueError, match=r"weight of shape \(2, 4, 5, 2\) must be \(M, I, O, 2\)"):
        spectral_mix(x, weight[:2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_launches_compile_for_hopper(dtype):
    pytest.importorskip("triton", reason="kernels need the package triton")
    x, weight = torch.zeros(32, 2, 4, 64, dtype=dtype), torch.zeros(4, 64, 64, 2, dtype=dtype)
    a, b = x.permute(2, 1, 0, 3), weight.permute(0, 3, 1, 2)

    def call():
        module._launch(a, b, False, False, False)
        module._launch(a, b.mT, False, True, False)
        module._launch(a.mT, a, True, False, True)

    compiled = compiled_launches(module, ["_mode_product_kernel"], call)
    assert len(compiled) == 3
    for _, one in compiled:
        assert "mma" in one.asm["ptx"] and one.asm["cubin"]
        assert one.metadata.shared <= 227 * 1024


LAYERS = {
    "dense": {},
    "tucker": {"factorization": "tucker", "rank": 0.5, "implementation": "reconstructed"},
    "fewer modes": {"max_n_modes": (6, 6)},
    "fast transforms": {"backend": "fft"},
    "complex": {"is_complex": True},
}


@pytest.mark.parametrize("case", LAYERS)
def test_the_layer_gives_the_same_with_the_kernel(case):
    layer = SpectralConv(3, 5, (4, 5), **LAYERS[case])
    x = torch.randn(2, 3, 9, 8, dtype=torch.complex64 if case == "complex" else torch.float32)
    results = []
    for mode in ("torch", "triton"):
        layer.zero_grad()
        with kernels_as(mode):
            y = layer(x)
            y.abs().square().sum().backward()
        results.append([y.detach(), *(p.grad.clone() for p in layer.parameters())])
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-4 * float(reference.abs().max()))


def test_the_layer_compiles_in_one_graph_and_exports():
    layer, x = SpectralConv(3, 5, (4, 4)), torch.randn(2, 3, 9, 8)
    expected = layer(x)
    with kernels_as("triton"):
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-5)
        program = torch.export.export(layer, (x,))
        with torch.autocast("cpu", torch.bfloat16):
            mixed = layer(x).float()
    # A rounding to bfloat16 is at most 2 ** -9 of a value; ten in a row stay below this.
    assert (mixed - expected).norm() < 0.02 * expected.norm()
    assert not any("blockzoo" in str(node.target) for node in program.graph.nodes)
