"""Transforms of kept frequencies: both forms agree with the definition, for every parity."""

import itertools

import pytest
import torch

from blockzoo.layers.spectral.fourier import analyse, kept_bands, resample, synthesise, uses_dft

SIZES = [(9,), (8,), (7, 6), (6, 7), (8, 8), (5, 6, 4), (4, 3, 5)]


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("modes", [1, 3, 4, 20])
@pytest.mark.parametrize("size", SIZES)
def test_both_forms_are_the_definition(size, modes, is_complex):
    bands = kept_bands(size, [modes] * len(size), is_complex)
    x = torch.randn(2, *size, *[2] * is_complex, 3, dtype=torch.double)
    by_matrix, by_fft = (analyse(x, bands, is_complex, form) for form in ("dft", "fft"))
    torch.testing.assert_close(by_matrix, by_fft)
    field = torch.view_as_complex(x.movedim(-2, -1).contiguous()) if is_complex else x.to(torch.cdouble)
    whole = torch.fft.fftn(field, dim=tuple(range(1, 1 + len(size))), norm="forward")
    for axis, band in enumerate(bands, start=1):
        whole = whole.index_select(axis, torch.arange(band.low, band.low + band.count) % size[axis - 1])
    torch.testing.assert_close(torch.view_as_real(whole).movedim(-1, 1), by_matrix)
    z = torch.randn_like(by_matrix)
    torch.testing.assert_close(
        synthesise(z, size, bands, is_complex, "dft"), synthesise(z, size, bands, is_complex, "fft")
    )
    if modes == 20:
        torch.testing.assert_close(synthesise(by_matrix, size, bands, is_complex, "dft"), x)


@pytest.mark.parametrize("form", ["dft", "fft"])
def test_gradients(form):
    bands = kept_bands((5, 6), (4, 4))
    x = torch.randn(1, 5, 6, 2, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: synthesise(analyse(x, bands, backend=form), (7, 6), bands, backend=form), x
    )


@pytest.mark.parametrize(("old", "new"), list(itertools.product([8, 9, 13], [8, 9, 12, 17])))
def test_resampling_is_exact_for_waves_that_both_grids_resolve(old, new, waves):
    torch.testing.assert_close(resample(waves((old, old), 3), (new, new)), waves((new, new), 3))


def test_resampling_keeps_the_values_of_every_second_point():
    x = torch.randn(1, 8, 6, 2, dtype=torch.double)
    torch.testing.assert_close(resample(x, (16, 12))[:, ::2, ::2], x)


def test_the_form_is_chosen_by_cost_type_and_autocast():
    x, size = torch.zeros(1, 256, 256, 1), (256, 256)
    few, many, all_of_them = (kept_bands(size, (m, m)) for m in (64, 192, 256))
    assert uses_dft(size, many, x) and not uses_dft(size, all_of_them, x)  # training
    with torch.no_grad():
        assert uses_dft(size, few, x) and not uses_dft(size, many, x)
        assert uses_dft(size, all_of_them, x.bfloat16())
        with torch.autocast("cpu"):
            assert uses_dft(size, all_of_them, x)
