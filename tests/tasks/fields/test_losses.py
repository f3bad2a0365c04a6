"""Norms of fields: the published values, closed forms, and spectra."""

import math

import pytest
import torch

from blockzoo.tasks.fields.losses import H1Loss, LpLoss, SpectralH1Loss, derivatives, isotropic_spectrum

LOSSES = {
    **{
        f"lp_{kind}_d{{d}}_p{p}_{reduction}": LpLoss(p, kind == "rel", reduction=reduction)
        for kind in ("rel", "abs")
        for p in (1, 2)
        for reduction in ("sum", "mean")
    },
    **{
        f"h1_{kind}_d{{d}}_periodic{int(closes)}": H1Loss(kind == "rel", periodic=closes, reduction="sum")
        for kind in ("rel", "abs")
        for closes in (True, False)
    },
    "lp_abs_d{d}_2pi": LpLoss(2, False, 2 * math.pi, "sum"),
    "h1_rel_d{d}_2pi": H1Loss(True, 2 * math.pi, reduction="sum"),
}


def grid(*size):
    """Coordinates in [0, 1) along each axis."""
    return torch.meshgrid(*[torch.arange(n, dtype=torch.double) / n for n in size], indexing="ij")


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("name", LOSSES)
def test_published_values(golden, name, dims):
    case = golden("fno_losses")
    shape = (3, 2, 24, 32)
    fields = [case.field(which, shape) for which in ("pred", "target")]
    pred, target = fields if dims == 2 else [field[:, :, 0] for field in fields]
    assert case.error(name.format(d=dims), LOSSES[name](pred, target).reshape(1)) < 5e-6


def test_means_do_not_depend_on_the_batch_or_on_repeated_channels():
    pred, target = torch.randn(2, 4, 3, 8, 8).unbind(0)
    for loss in (LpLoss(), H1Loss(), SpectralH1Loss()):
        whole = loss(pred, target)
        assert torch.allclose(
            whole, torch.stack([loss(p[None], t[None]) for p, t in zip(pred, target, strict=True)]).mean()
        )
        assert torch.allclose(whole, loss(pred.repeat(1, 2, 1, 1), target.repeat(1, 2, 1, 1)))


def test_relative_error_of_a_scaled_field_is_the_scale():
    target = torch.randn(2, 3, 9, 7, dtype=torch.double)
    for loss in (LpLoss(), LpLoss(p=1), H1Loss(), H1Loss(periodic=False), SpectralH1Loss()):
        assert float(loss(1.25 * target, target)) == pytest.approx(0.25, rel=1e-6)


@pytest.mark.parametrize("k", [1, 3])
def test_h1_of_a_sine_is_known_in_closed_form(k):
    n, length = 64, 2 * math.pi
    (x,) = grid(n)
    wave = torch.sin(2 * math.pi * k * x)[None, None]
    zero = torch.zeros_like(wave)
    h = length / n
    by_differences = math.sqrt((1 + (math.sin(k * h) / h) ** 2) * length / 2)
    assert float(H1Loss(relative=False, measure=length)(wave, zero)) == pytest.approx(by_differences, rel=1e-12)
    # Relative to cos(m x): the norm of a wave of frequency k is sqrt((1 + k²) / 2).
    other = torch.cos(2 * math.pi * 5 * x)[None, None]
    expected = math.sqrt((1 + k**2) + (1 + 25)) / math.sqrt(1 + 25)
    assert float(SpectralH1Loss(measure=length)(wave + other, 2 * other)) == pytest.approx(expected / 2, rel=1e-8)


def test_differences_approach_the_spectral_norm_with_the_grid():
    errors = []
    for n in (32, 64, 128):
        x, y = grid(n, n)
        target = (torch.sin(2 * math.pi * x) * torch.cos(4 * math.pi * y))[None, None]
        pred = target + 0.3 * torch.cos(2 * math.pi * (3 * x + y))[None, None]
        errors.append(abs(float(H1Loss()(pred, target) - SpectralH1Loss()(pred, target))))
    assert errors[0] < 0.05
    assert errors[1] / errors[0] == pytest.approx(0.25, rel=0.1)
    assert errors[2] / errors[1] == pytest.approx(0.25, rel=0.1)


def test_one_sided_ends_are_exact_for_cubics_and_the_inside_for_parabolas():
    n, length = 12, 3.0
    x = torch.arange(n, dtype=torch.double) * length / n
    cubic = 2 - x + 0.5 * x**2 + 0.25 * x**3
    (slope,) = derivatives(cubic[None, None], length, periodic=False)
    exact = -1 + x + 0.75 * x**2
    assert torch.allclose(slope[0, 0, [0, -1]], exact[[0, -1]], atol=1e-12)
    parabola = 1 + 3 * x - x**2
    assert torch.allclose(derivatives(parabola[None, None], length, periodic=False)[0][0, 0], 3 - 2 * x, atol=1e-12)


def test_axes_may_differ_in_length_and_in_whether_they_close():
    x, y = grid(16, 20)
    field = (torch.sin(2 * math.pi * x) + 3 * y)[None, None]
    d_x, d_y = derivatives(field, [2.0, 5.0], [True, False])
    h = 2.0 / 16
    assert torch.allclose(d_x[0, 0], math.sin(math.pi * h) / h * torch.cos(2 * math.pi * x), atol=1e-12)
    assert torch.allclose(d_y, torch.full_like(d_y, 3 / 5.0), atol=1e-12)


@pytest.mark.parametrize("size", [(16,), (12, 15), (9, 8), (6, 5, 8)])
def test_spectral_norm_without_derivatives_is_the_l2_norm(size):
    pred, target = torch.randn(2, 2, 3, *size, dtype=torch.double).unbind(0)
    spectral = SpectralH1Loss(weight=0.0, reduction="none")(pred, target)
    assert torch.allclose(spectral, LpLoss(reduction="none")(pred, target))


@pytest.mark.parametrize("size", [(16,), (12, 15), (6, 9, 8)])
def test_spectrum_adds_up_to_half_the_mean_square(size, waves):
    field = waves(size, 2).movedim(-1, 1)
    energy = isotropic_spectrum(field)
    assert energy.shape == (1, 1, min(size) // 2 + 1)
    assert float(energy.sum()) == pytest.approx(float(field.square().mean()) / 2)


def test_spectrum_finds_a_wave_in_its_shell():
    x, y = grid(32, 32)
    wave = torch.cos(2 * math.pi * (3 * x + 4 * y))[None, None]
    energy = isotropic_spectrum(torch.cat([wave, 2 * wave], 1))
    assert energy.shape == (1, 2, 17)
    assert int(energy[0, 0].argmax()) == 5
    assert torch.allclose(energy[0, :, 5], torch.tensor([0.25, 1.0], dtype=torch.double))


@pytest.mark.parametrize("loss", [LpLoss(), H1Loss(), H1Loss(periodic=False), SpectralH1Loss()])
def test_gradients(loss):
    pred, target = torch.randn(2, 1, 2, 5, 6, dtype=torch.double).unbind(0)
    assert torch.autograd.gradcheck(lambda p: loss(p, target), pred.requires_grad_())
    exact = target.clone().requires_grad_()
    loss(exact, target).backward()
    assert torch.equal(exact.grad, torch.zeros_like(target))  # and not NaN


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: LpLoss(reduction="max"), "reduction='max' must be 'mean', 'sum' or 'none'"),
        (lambda x: H1Loss(measure=[1.0, 2.0, 3.0])(x, x), "measure=.* must be one number or 2"),
        (lambda x: H1Loss(periodic=[True])(x, x), "periodic=.* must be one answer or 2"),
        (lambda x: H1Loss(periodic=False)(x[..., :3], x[..., :3]), "at least 4 points along the non-periodic axis 3"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(1, 1, 6, 6))


@pytest.mark.parametrize("loss", [LpLoss, H1Loss, SpectralH1Loss])
def test_targets_of_zeros_have_no_relative_error(loss):
    pred, target = torch.randn(2, 3, 2, 6, 8, dtype=torch.double).unbind(0)
    target[1] = 0
    others = [0, 2]
    for reduction in ("mean", "sum"):
        measure = loss(reduction=reduction)
        torch.testing.assert_close(measure(pred, target), measure(pred[others], target[others]))
    assert loss(reduction="none")(pred, target).isnan().all(1).tolist() == [False, True, False]
    assert loss()(pred, torch.zeros_like(target)) == 0
    pred.requires_grad_()
    loss()(pred, target).backward()
    assert pred.grad.isfinite().all() and not pred.grad[1].any()


@pytest.mark.parametrize("loss", [LpLoss(), H1Loss(), SpectralH1Loss()])
def test_relative_errors_do_not_depend_on_the_unit(loss):
    pred, target = torch.randn(2, 1, 2, 6, 8, dtype=torch.double).unbind(0)
    torch.testing.assert_close(loss(1e-12 * pred, 1e-12 * target), loss(pred, target))


@pytest.mark.parametrize("loss", [LpLoss(), LpLoss(relative=False), H1Loss(), H1Loss(periodic=False)])
def test_masked_points_have_no_say(loss):
    target, pred = torch.randn(2, 3, 2, 12, 10, dtype=torch.double)
    mask = torch.zeros(3, 1, 12, 10, dtype=torch.bool)
    mask[:, :, 2:9, 1:8] = True
    value = loss(pred, target, mask)
    for field in (pred, target):
        broken = torch.where(mask, field, torch.randn(field.shape, dtype=torch.double) * 1e6)
        other = (broken, target) if field is pred else (pred, broken)
        torch.testing.assert_close(loss(*other, mask), value, rtol=1e-12, atol=0)
    torch.testing.assert_close(loss(pred, target, torch.ones_like(mask)), loss(pred, target))
    pred.requires_grad_()
    (grad,) = torch.autograd.grad(loss(pred, target, mask), pred)
    assert grad.isfinite().all() and not grad[~mask.expand_as(grad)].any() and grad[mask.expand_as(grad)].all()


def test_masked_errors_are_those_of_the_part_inside():
    target, pred = torch.randn(2, 3, 2, 12, 10)
    mask = torch.zeros(1, 12, 10, dtype=torch.bool)
    mask[:, 3:9] = True
    torch.testing.assert_close(LpLoss()(pred, target, mask), LpLoss()(pred[:, :, 3:9], target[:, :, 3:9]))
    with pytest.raises(ValueError, match="with a mask use 'h1' or 'l2'"):
        SpectralH1Loss()(pred, target, mask)
