"""Metrics of probabilistic forecasts against their plain definitions, and samples against the quantiles they are of."""

import math

import numpy as np
import pytest
import torch

from blockzoo.layers.series.quantiles import check_levels
from blockzoo.tasks.series.probabilistic import (
    central_pairs,
    crps_from_quantiles,
    crps_from_samples,
    empirical_quantiles,
    interval_coverage,
    interval_score,
    interval_width,
    observed_levels,
    pinball_loss,
    sample_quantiles,
    weighted_quantile_loss,
)

LEVELS = [0.05, 0.25, 0.5, 0.75, 0.95]
TYPES = [(torch.float32, 1e-5), (torch.float64, 1e-12)]


def made_up(dtype=torch.float64, batch=3, steps=7, channels=2):
    rng = np.random.default_rng(0)
    target = rng.normal(size=(batch, steps, channels))
    quantiles = np.sort(rng.normal(size=(batch, len(LEVELS), steps, channels)), 1)
    samples = rng.normal(size=(batch, 11, steps, channels))
    return (torch.from_numpy(values).to(dtype) for values in (target, quantiles, samples))


@pytest.mark.parametrize("dtype, tolerance", TYPES)
@pytest.mark.parametrize("batch", [1, 3])
def test_quantile_scores_are_their_definitions(dtype, tolerance, batch):
    target, quantiles, _ = made_up(dtype, batch)
    plain = np.zeros(quantiles.shape)
    for (b, q, t, c), forecast in np.ndenumerate(quantiles.numpy()):
        y = float(target[b, t, c])
        plain[b, q, t, c] = (LEVELS[q] - (y < forecast)) * (y - forecast)
    loss = pinball_loss(quantiles, target, LEVELS)
    assert loss.dtype == dtype and np.allclose(loss, plain, atol=tolerance)
    assert np.allclose(crps_from_quantiles(quantiles, target, LEVELS), 2 * plain.mean(1), atol=tolerance)
    wanted = 2 * plain.sum((0, 2, 3)) / np.abs(target.numpy()).sum()
    assert np.allclose(weighted_quantile_loss(quantiles, target, LEVELS), wanted, atol=10 * tolerance)
    below = (target[:, None] <= quantiles).double().mean((0, 2, 3))
    assert torch.allclose(observed_levels(quantiles, target).double(), below, atol=tolerance)


@pytest.mark.parametrize("dtype, tolerance", TYPES)
def test_the_crps_of_samples_is_its_definition(dtype, tolerance):
    target, _, samples = made_up(dtype)
    distance = (samples - target[:, None]).abs().mean(1)
    pairs = (samples[:, :, None] - samples[:, None]).abs()
    assert torch.allclose(crps_from_samples(samples, target), distance - pairs.mean((1, 2)) / 2, atol=tolerance)
    fair = distance - pairs.sum((1, 2)) / (2 * 11 * 10)
    assert torch.allclose(crps_from_samples(samples, target, fair=True), fair, atol=tolerance)
    one = samples[:, :1]
    assert torch.allclose(crps_from_samples(one, target), (one[:, 0] - target).abs())


GOLDEN = {"quantile": 0.20000000000000004, "nrg": 0.234375, "fair": 0.04166666666666663, "interval": 13.0}
"""scoringrules 0.10.0 for y = 0.3, the quantiles -1, 0, 0.5, 1, 2 at LEVELS and the samples below
(crps_quantile, crps_ensemble with estimators nrg and fair), and interval_score of [-1, 2] for y = 2.5 at alpha 0.1."""


def test_values_are_those_of_the_libraries():
    target = torch.tensor([0.3], dtype=torch.float64)
    quantiles = torch.tensor([[-1.0, 0.0, 0.5, 1.0, 2.0]], dtype=torch.float64)
    samples = torch.tensor([[-1.0, 0.25, 0.5, 2.0]], dtype=torch.float64)
    assert float(crps_from_quantiles(quantiles, target, LEVELS)) == pytest.approx(GOLDEN["quantile"], abs=1e-12)
    assert float(crps_from_samples(samples, target)) == pytest.approx(GOLDEN["nrg"], abs=1e-12)
    assert float(crps_from_samples(samples, target, fair=True)) == pytest.approx(GOLDEN["fair"], abs=1e-12)
    outside = torch.tensor([2.5], dtype=torch.float64)
    found = interval_score(quantiles[:, 0], quantiles[:, 4], outside, 0.9)
    assert float(found) == pytest.approx(GOLDEN["interval"], abs=1e-12)


def test_many_quantiles_approach_the_crps_of_a_normal():
    levels = ((np.arange(400) + 0.5) / 400).tolist()
    normal = torch.distributions.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0)
    quantiles = normal.icdf(torch.tensor(levels, dtype=torch.float64))[None]
    y = torch.tensor(0.7, dtype=torch.float64)
    exact = y * (2 * normal.cdf(y) - 1) + 2 * normal.log_prob(y).exp() - 1 / math.sqrt(math.pi)
    assert float(crps_from_quantiles(quantiles, y[None], levels)) == pytest.approx(float(exact), abs=2e-3)


def test_masked_targets_count_nowhere():
    target, quantiles, _ = made_up()
    mask = (torch.arange(7)[None, :, None] < 5).expand_as(target).float()
    odd = torch.where(mask != 0, target, 1e9)
    cut = [part[..., :5, :] for part in (quantiles, target)]
    assert torch.allclose(weighted_quantile_loss(quantiles, odd, LEVELS, mask), weighted_quantile_loss(*cut, LEVELS))
    assert torch.allclose(observed_levels(quantiles, odd, mask), observed_levels(*cut))
    low, high = quantiles[:, 0], quantiles[:, 4]
    assert torch.allclose(
        interval_coverage(low, high, odd, mask), interval_coverage(low[:, :5], high[:, :5], target[:, :5])
    )
    assert torch.allclose(interval_width(low, high, mask), (high - low)[:, :5].mean())
    assert interval_width(low, high, torch.zeros_like(target)).isnan()


def test_central_pairs_are_exact_and_widest_last():
    assert central_pairs([0.05, 0.1, 0.5, 0.9, 0.95]) == {0.8: (1, 3), 0.9: (0, 4)}
    assert central_pairs([0.1, 0.5]) == {}
    assert central_pairs([0.025, 0.5, 0.975]) == {0.95: (0, 2)}


def test_samples_have_the_quantiles_they_were_drawn_from():
    quantiles = torch.tensor([[[0.0], [1.0], [3.0], [4.0], [9.0]]], dtype=torch.float64)
    drawn = sample_quantiles(quantiles, LEVELS, 20000, torch.Generator().manual_seed(0))
    assert drawn.shape == (1, 20000, 1) and drawn.dtype == torch.float64
    found = empirical_quantiles(drawn.numpy(), LEVELS, axis=1)[0, :, 0]
    assert np.allclose(found, quantiles[0, :, 0], atol=0.12)
    assert (drawn < 0).any() and (drawn > 9).any()


def test_shared_axes_take_the_same_draw():
    quantiles = torch.tensor(LEVELS, dtype=torch.float64)[None, :, None, None].expand(2, -1, 4, 3)
    drawn = sample_quantiles(quantiles, LEVELS, 50, torch.Generator().manual_seed(0), shared=(2,))
    assert drawn.shape == (2, 50, 4, 3)
    assert torch.equal(drawn, drawn[:, :, :1].expand_as(drawn))
    assert not torch.equal(drawn[..., :1], drawn[..., 1:2])
    assert not torch.equal(drawn[:1], drawn[1:])


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: check_levels([0.5, 0.1]), "quantiles=[0.5, 0.1] must be increasing"),
        (lambda: check_levels([0.0, 0.5]), "between 0 and 1"),
        (lambda: check_levels([]), "quantiles=[] must be increasing"),
        (lambda: check_levels([0.1, 0.9]), "must hold 0.5"),
        (lambda: pinball_loss(torch.zeros(1, 3, 2), torch.zeros(1, 2), [0.1, 0.9]), "2 levels do not fit"),
        (lambda: crps_from_samples(torch.zeros(1, 1), torch.zeros(1), fair=True), "a fair score needs 2"),
        (lambda: sample_quantiles(torch.zeros(1, 1), [0.5], 3), "two or more"),
        (lambda: sample_quantiles(torch.zeros(1, 2), [0.2, 0.5], 0), "count=0"),
        (lambda: interval_score(torch.zeros(1), torch.ones(1), torch.zeros(1), 1.0), "coverage=1.0"),
    ],
)
def test_wrong_arguments_are_named(call, said):
    with pytest.raises(ValueError) as error:
        call()
    assert said in str(error.value)
