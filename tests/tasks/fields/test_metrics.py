"""Measures of benchmarks: the values of the code that defines them, and what they mean."""

import math

import pytest
import torch

from blockzoo.tasks.fields.losses import LpLoss
from blockzoo.tasks.fields.metrics import (
    boundary_rmse,
    fourier_rmse,
    fourier_shells,
    max_error,
    mean_error,
    rmse,
    spectral_nrmse,
    vector_l2,
    vrmse,
)

LENGTHS = (1.5, 2.0, 0.5)

PDEBENCH = {  # by `metric_func` of its repository, channel by channel
    (32,): {
        "rmse": [0.1183072063933268, 0.11929659782502501],
        "nrmse": [0.16187963805156158, 0.15538612822942213],
        "conserved": [0.014400430455345012, 0.014400430455344929],
        "max": [0.25182001271436094, 0.25721411682280837],
        "boundary": [0.11177905597031047, 0.11401949451844841],
        "fourier": [
            [0.036091916263103485, 0.012104030698537827, 0.018063869327306747],
            [0.03626576438546181, 0.011703849770128727, 0.01832430064678192],
        ],
    },
    (28, 26): {
        "rmse": [0.16022655272079936, 0.15879898687920183],
        "nrmse": [0.15931123509320114, 0.15063009987392084],
        "conserved": [0.014297542326323288, 0.014297542326323272],
        "max": [0.444787359964787, 0.4443886590956916],
        "boundary": [0.1654921966105911, 0.16725772584713128],
        "fourier": [
            [0.12610232830047607, 0.02885914221405983, 0.0334763303399086],
            [0.1299843043088913, 0.028126610442996025, 0.03795479238033295],
        ],
    },
    (24, 26, 28): {
        "rmse": [0.19415951638865434, 0.1914310329685236],
        "nrmse": [0.15670356484870515, 0.14969649086346393],
        "conserved": [0.014051386153111666, 0.014051386153111614],
        "max": [0.6290921413382207, 0.5796387970399717],
        "fourier": [
            [0.09080144017934799, 0.016581956297159195, math.nan],
            [0.06560678035020828, 0.02945113182067871, math.nan],
        ],
    },
}

WELL = {  # by `VRMSE` and `binned_spectral_mse` of its repository: (samples, channels), means over samples
    (32,): (
        [[0.15998402088524852, 0.15904241916458858], [0.1616972439706906, 0.16049970417986906],
         [0.15686503509181673, 0.1624538017884468]],
        [[0.14964506530233332, 0.3298283591822607, 0.8104203367787929],
         [0.1426584707910964, 0.21697994511172358, 0.8595019868666202]],
    ),
    (28, 26): (
        [[0.1710953032148943, 0.15275108680559832], [0.15422613166707785, 0.1534917178534527],
         [0.15257625670997155, 0.15700549380739576]],
        [[0.15580631145314197, 0.2917870611716695, 0.590997012641508],
         [0.14264751462419342, 0.14987153671825257, 0.2928297810933547]],
    ),
    (24, 26, 28): (
        [[0.1636048608436669, 0.15152687948548876], [0.15378354491493856, 0.1532324886658856],
         [0.15289521106712306, 0.15208803511231556]],
        [[0.15566013782503074, 0.1516336782409794, 0.6434911798722059],
         [0.14243567884106967, 0.15015842512420755, 0.25633807113558876]],
    ),
}  # fmt: skip


def waves(size, phase, batch=3, chans=2):
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.double) / n for n in size], indexing="ij")
    fields = torch.zeros(batch, chans, *size, dtype=torch.double)
    for i in range(batch):
        for j in range(chans):
            for a, x in enumerate(axes):
                wave = torch.sin(2 * math.pi * (a + 1 + j) * x + phase + i)
                fields[i, j] += wave * (1 + 0.3 * torch.cos(2 * math.pi * (3 + 5 * i + a) * x + j))
            fields[i, j] += 0.1 * phase + 0.2 * j + 0.05 * torch.cos(40 * axes[0] ** 2 * (1 + phase))
    return fields


@pytest.mark.parametrize("size", PDEBENCH)
def test_values_are_those_of_pdebench(size):
    target, pred = waves(size, 0.3), waves(size, 0.45)
    found = {
        "rmse": rmse(pred, target).mean(0),
        "nrmse": LpLoss(reduction="none")(pred, target).mean(0),
        "conserved": mean_error(pred, target).square().mean(0).sqrt(),
        "max": max_error(pred, target).amax(0),
        "boundary": boundary_rmse(pred, target).mean(0),
        "fourier": fourier_rmse(fourier_shells(pred, target).mean(0), size, LENGTHS[: len(size)]),
    }
    for name, expected in PDEBENCH[size].items():
        wanted = torch.tensor(expected, dtype=torch.double)
        # Their errors by frequency are stored in float32.
        torch.testing.assert_close(
            found[name], wanted, rtol=1e-6 if name == "fourier" else 1e-9, atol=1e-12, equal_nan=True
        )


@pytest.mark.parametrize("size", WELL)
def test_values_are_those_of_the_well(size):
    target, pred = waves(size, 0.3), waves(size, 0.45)
    errors, bands = (torch.tensor(values, dtype=torch.double) for values in WELL[size])
    torch.testing.assert_close(vrmse(pred, target, eps=1e-7), errors, rtol=1e-9, atol=0)
    torch.testing.assert_close(spectral_nrmse(pred, target, eps=1e-7).mean(0), bands, rtol=1e-9, atol=0)


def test_the_mean_as_prediction_has_an_error_near_one_in_any_unit():
    target = waves((16, 12), 0.3)
    mean = target.mean((2, 3), keepdim=True).expand_as(target)
    for unit in (1e-8, 1.0, 1e8):
        expected = math.sqrt(1 - 1 / 192)  # the variance divides by the points less one
        torch.testing.assert_close(vrmse(mean * unit, target * unit), torch.full((3, 2), expected, dtype=torch.double))


def test_constant_fields_have_no_relative_error():
    constant = torch.ones(1, 1, 8, 8)
    assert vrmse(constant + 1, constant).isnan().all()
    assert spectral_nrmse(constant + 1, torch.zeros(1, 1, 8, 8)).isnan().all()


@pytest.mark.parametrize("measure", [rmse, vrmse, max_error, mean_error])
def test_masked_points_do_not_count(measure):
    target, pred = waves((12, 10), 0.3), waves((12, 10), 0.45)
    mask = torch.zeros(1, 12, 10, dtype=torch.bool)
    mask[:, 2:9, 3:8] = True
    inside = measure(pred[..., 2:9, 3:8], target[..., 2:9, 3:8])
    broken = torch.where(mask, pred, 1e9)
    torch.testing.assert_close(measure(broken, target, mask), inside)
    torch.testing.assert_close(measure(broken, target, mask.expand(3, 1, 12, 10)), inside)


def test_the_error_of_a_vector_field_does_not_change_when_axes_turn():
    target, pred = waves((12, 10), 0.3), waves((12, 10), 0.45)
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.double)
    turned = [torch.einsum("dc,bcxy->bdxy", turn, field) for field in (pred, target)]
    torch.testing.assert_close(vector_l2(*turned, [0, 1]), vector_l2(pred, target, [0, 1]))
    mask = torch.zeros(1, 12, 10, dtype=torch.bool)
    mask[:, :, :5] = True
    found = vector_l2(torch.where(mask, pred, 1e9), target, [0, 1], mask)
    torch.testing.assert_close(found, vector_l2(pred[..., :5], target[..., :5], [0, 1]))
