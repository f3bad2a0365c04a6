"""Runs the kernel of spectral mixing on CPU tensors; see tests/kernels/test_interpreter.py."""

import itertools

import pytest
import torch

from blockzoo.kernels import _dispatch
from blockzoo.kernels._testing import assert_near, poisoned_empty
from blockzoo.kernels.spectral_mix import mode_product, mode_product_ref, spectral_mix, spectral_mix_ref

# samples, modes, channels in and out
CASES = [(3, 5, 7, 11), (1, 1, 1, 1), (2, 3, 67, 33), (33, 2, 4, 100), (0, 3, 4, 4), (2, 0, 4, 4), (5, 2, 31, 1)]


def draw(samples, modes, chans, out_chans, dtype=torch.float32):
    weight = torch.randn(modes, chans, out_chans, 2) / chans**0.5
    return torch.randn(samples, 2, modes, chans).to(dtype), weight.to(dtype)


def as_pair(tensor):
    return torch.stack([tensor.real, tensor.imag], 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernel_equals_the_float64_reference_with_its_gradients(case, dtype):
    tensors, results = draw(*case, dtype), []
    g = torch.randn(case[0], 2, case[1], case[3]).to(dtype)
    for wide in (False, True):
        x, weight = (t.double() if wide else t.clone() for t in tensors)
        x.requires_grad_(), weight.requires_grad_()
        with poisoned_empty(), _dispatch.kernels_as("triton"):
            out = (spectral_mix_ref if wide else spectral_mix)(x, weight)
            results.append([out, *torch.autograd.grad(out, (x, weight), g.to(out.dtype))])
    for ours, reference in zip(*results, strict=True):
        assert_near(ours, reference, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_conjugates_strides_and_memory(dtype):
    a = torch.randn(5, 2, 6, 8)[:, :, ::2].permute(1, 0, 3, 2)[:, :2].permute(1, 0, 2, 3).to(dtype)
    b = torch.randn(3, 2, 4, 2).permute(2, 1, 0, 3)[:2].to(dtype)
    for conj_a, conj_b, as_weights in itertools.product((True, False), repeat=3):
        with poisoned_empty():
            out = mode_product(a, b, conj_a, conj_b, as_weights)
        complex_a, complex_b = (torch.complex(*t.double().unbind(1)) for t in (a, b))
        expected = (complex_a.conj() if conj_a else complex_a) @ (complex_b.conj() if conj_b else complex_b)
        assert_near(out, as_pair(expected), dtype)
        assert_near(mode_product_ref(a.double(), b.double(), conj_a, conj_b), as_pair(expected), torch.float64)
        assert (out.permute(0, 2, 3, 1) if as_weights else out.permute(2, 1, 0, 3)).is_contiguous()


def test_gradients_of_second_order():
    results = []
    for wide in (False, True):
        x, weight = (t.double() if wide else t for t in draw(2, 3, 4, 5))
        torch.manual_seed(0)
        x, weight = (torch.randn(t.shape).to(t.dtype).requires_grad_() for t in (x, weight))
        with _dispatch.kernels_as("triton"):
            out = (spectral_mix_ref if wide else spectral_mix)(x, weight)
            first = torch.autograd.grad(out.sin().sum(), (x, weight), create_graph=True)
            results.append([*first, *torch.autograd.grad(sum(t.square().sum() for t in first), (x, weight))])
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours.double(), reference, rtol=1e-4, atol=1e-3)
