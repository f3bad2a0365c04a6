"""Spectral convolution: the operator belongs to frequencies, whatever the grid, the form and the factorisation."""

import copy
import itertools

import pytest
import torch
from torch import nn

from blockzoo.layers.spectral.spectral_conv import SpectralConv, SpectralWeight, stored_slots

FORMS = [("tucker", 0.3), ("cp", 0.3), ("tt", 0.3)]


def identity(n_modes, is_complex=False, **kwargs):
    conv = SpectralConv(1, 1, n_modes, bias=False, is_complex=is_complex, dtype=torch.double, **kwargs)
    nn.init.zeros_(conv.weight.tensor.tensor)
    conv.weight.tensor.tensor.data[..., 0] = 1
    return conv


@pytest.mark.parametrize("backend", ["dft", "fft"])
@pytest.mark.parametrize(("old", "new"), list(itertools.product([8, 9, 11, 15], [8, 9, 14, 15, 22])))
def test_identity_weight_is_the_identity_between_grids_of_any_parity(old, new, backend, waves):
    """Odd rows, 2-D super-resolution and grids coarser than the modes are wrong in neuraloperator 2.0."""
    for modes in (7, 8, 16):
        for dims in (1, 2):
            conv = identity([modes] * dims, backend=backend)
            x, y = (waves((n,) * dims, 3).movedim(-1, 1) for n in (old, new))
            torch.testing.assert_close(conv(x, [new] * dims), y)


@pytest.mark.parametrize(("old", "new"), [(8, 8), (9, 9), (9, 16), (16, 9)])
def test_identity_weight_is_the_identity_on_complex_fields(old, new, waves):
    conv = identity((7, 7), is_complex=True)
    x, y = (
        torch.complex(waves((n, n), 3, seed=1), waves((n, n), 3, seed=2)).movedim(-1, 1).contiguous()
        for n in (old, new)
    )
    torch.testing.assert_close(conv(x, (new, new)), y)


def test_a_coarse_grid_uses_the_weights_of_its_frequencies(waves):
    """On a grid with fewer rows than modes every frequency keeps its own weight, for odd and even grids."""
    conv = SpectralConv(2, 3, (16, 16), bias=False, dtype=torch.double)
    for n in (9, 10, 11, 13):
        coarse, fine = (torch.cat([waves((m, m), 4, seed=s) for s in (0, 1)], -1).movedim(-1, 1) for m in (n, 32))
        torch.testing.assert_close(conv(coarse, (32, 32)), conv(fine))


@pytest.mark.parametrize(("form", "rank"), FORMS)
@pytest.mark.parametrize("layers", [None, 3])
@pytest.mark.parametrize("size", [(12, 10), (5, 7)])
def test_factors_and_reconstructed_weights_agree(form, rank, layers, size):
    weight = SpectralWeight(4, 5, stored_slots((6, 8)), False, form, rank, layers=layers, dtype=torch.double)
    x = torch.randn(2, 4, *size, dtype=torch.double)
    outputs = []
    for how in ("reconstructed", "factorized", "auto"):
        conv = SpectralConv(4, 5, (6, 8), implementation=how, weight=weight, layer=1 if layers else 0, bias=False)
        outputs.append(conv(x))
    torch.testing.assert_close(outputs[0], outputs[1])
    torch.testing.assert_close(outputs[0], outputs[2])
    dense = torch.view_as_complex(weight.tensor.full().contiguous())
    dense = dense[1] if layers else dense  # (in, out, *modes)
    full = torch.fft.rfftn(x, dim=(2, 3), norm="forward")
    n, m = size
    rows = [k for k in range(-3, 3) if -(n // 2) <= k <= (n - 1) // 2]
    out = torch.zeros(2, 5, n, m // 2 + 1, dtype=torch.cdouble)
    for k in rows:
        columns = min(5, m // 2 + 1)
        part = torch.einsum("bic,ioc->boc", full[:, :, k % n, :columns], dense[:, :, k + 3, :columns])
        out[:, :, k % n, :columns] = part
    torch.testing.assert_close(outputs[0], torch.fft.irfftn(out, s=size, dim=(2, 3), norm="forward"))


@pytest.mark.parametrize(("form", "rank"), [("dense", 1.0), *FORMS])
def test_gradients(form, rank):
    conv = SpectralConv(2, 2, (3, 4), factorization=form, rank=rank, dtype=torch.double)
    x = torch.randn(1, 2, 5, 4, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: conv(x), (x, *conv.parameters()))


def test_modes_can_be_lowered_and_keep_their_weights(waves):
    conv = SpectralConv(2, 2, (4, 4), max_n_modes=(8, 8), dtype=torch.double)
    x = waves((16, 16), 1).movedim(-1, 1).expand(1, 2, 16, 16)  # no frequency above 1
    few = conv(x)
    conv.set_n_modes((8, 8))
    torch.testing.assert_close(conv(x), few)
    with pytest.raises(ValueError, match=r"n_modes=\(9, 8\) must be from 1 to max_n_modes=\(8, 8\)"):
        conv.set_n_modes((9, 8))


def test_separable_weights_scale_channels():
    conv = SpectralConv(3, 3, (4, 4), separable=True, bias=False, dtype=torch.double)
    x = torch.randn(1, 3, 8, 8, dtype=torch.double)
    only = x.clone()
    only[:, 1:] = 0
    torch.testing.assert_close(conv(x)[:, :1], conv(only)[:, :1])
    assert (conv(only)[:, 1:] == 0).all()


@pytest.mark.parametrize(("form", "rank"), FORMS)
def test_fused_weights_compute_the_same(form, rank):
    conv = SpectralConv(4, 4, (6, 6), factorization=form, rank=rank, dtype=torch.double)
    x = torch.randn(2, 4, 12, 12, dtype=torch.double)
    expected = conv(x)
    fused = copy.deepcopy(conv)
    fused.weight.fuse()
    torch.testing.assert_close(fused(x), expected)


@pytest.mark.parametrize("form", ["dense", "tucker", "tt", "cp"])
def test_bfloat16_autocast_and_layers(form):
    conv = SpectralConv(4, 4, (6, 6), factorization=form, rank=0.5)
    x = torch.randn(2, 4, 16, 16)
    expected = conv(x)
    with torch.autocast("cpu"):
        mixed = conv(x)
    assert (mixed.float() - expected).abs().max() < 0.05 * expected.std()
    low = copy.deepcopy(conv).bfloat16()(x.bfloat16())
    assert low.dtype == torch.bfloat16
    assert (low.float() - expected).abs().max() < 0.1 * expected.std()


def test_no_parameter_is_complex_and_every_optimiser_takes_them():
    conv = SpectralConv(4, 4, (4, 4), factorization="tucker", rank=0.5)
    assert not any(parameter.is_complex() for parameter in conv.parameters())
    optimizer = torch.optim.AdamW(conv.parameters(), fused=True)
    conv(torch.randn(1, 4, 8, 8)).square().sum().backward()
    before = [parameter.clone() for parameter in conv.parameters()]
    optimizer.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, conv.parameters(), strict=True))


def test_mistakes_are_explained():
    with pytest.raises(ValueError, match="implementation='fast' must be one of"):
        SpectralConv(1, 1, (4,), implementation="fast")
    with pytest.raises(ValueError, match="backend='fftw' must be one of"):
        SpectralConv(1, 1, (4,), backend="fftw")
    with pytest.raises(ValueError, match="separable=True needs equal channels"):
        SpectralConv(1, 2, (4,), separable=True)
    with pytest.raises(ValueError, match=r"must have 3 axes"):
        SpectralConv(1, 1, (4,))(torch.ones(1, 1, 4, 4))
    with pytest.raises(ValueError, match="x must be complex"):
        SpectralConv(1, 1, (4,), is_complex=True)(torch.ones(1, 1, 4))
    with pytest.raises(ValueError, match="n_modes="):
        SpectralConv(1, 1, ())
    with pytest.raises(ValueError, match=r"x of shape \(1, 2, 4\) must have 3 axes, \(B, 1, \*size\)"):
        SpectralConv(1, 1, (4,))(torch.ones(1, 2, 4))
    with pytest.raises(ValueError, match="x must be real"):
        SpectralConv(1, 1, (4,))(torch.ones(1, 1, 4, dtype=torch.complex64))


@pytest.mark.parametrize("backend", ["auto", "dft", "fft"])
@pytest.mark.parametrize("shared", [False, True])
def test_fields_of_another_type_than_the_parameters_are_refused(backend, shared):
    weight = SpectralWeight(1, 1, (3,)) if shared else None
    conv = SpectralConv(1, 1, (4,), backend=backend, weight=weight)
    for dtype in (torch.float64, torch.bfloat16, torch.int64, torch.bool):
        with pytest.raises(ValueError, match=f"x is {dtype}, but the layer's parameters are torch.float32"):
            conv(torch.ones(1, 1, 8, dtype=dtype))
    if not shared:
        assert conv.double()(torch.ones(1, 1, 8, dtype=torch.float64)).dtype == torch.float64
    waves = SpectralConv(1, 1, (4,), backend=backend, is_complex=True)
    with pytest.raises(ValueError, match=r"convert it by x.to\(torch.complex64\)"):
        waves(torch.ones(1, 1, 8, dtype=torch.complex128))


def test_autocast_takes_fields_of_any_floating_type():
    conv = SpectralConv(1, 1, (4,))
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(torch.ones(1, 1, 8, dtype=torch.bfloat16)).shape == (1, 1, 8)


@pytest.mark.parametrize("form", ["CP", "Tucker", "TT", "Dense"])
def test_the_case_of_a_factorization_does_not_matter(form):
    conv = SpectralConv(3, 2, (4, 4), factorization=form, rank=0.5)
    assert conv.weight.factorization == form.lower()
    assert conv(torch.randn(1, 3, 8, 8)).shape == (1, 2, 8, 8)
