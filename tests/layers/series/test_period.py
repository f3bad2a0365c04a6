"""Inception convolution and period search."""

import math

import pytest
import torch

from blockzoo.layers.conv.inception_conv import InceptionConv2d
from blockzoo.layers.series.embed import SeriesEmbedding, sinusoidal_positions
from blockzoo.layers.series.norm import standardize_series
from blockzoo.layers.series.period import find_periods


def test_merged_convolution_is_the_mean_of_its_branches():
    layer = InceptionConv2d(3, 5, num_kernels=4).double()
    x = torch.randn(2, 3, 9, 6, dtype=torch.float64)
    mean = torch.stack([conv(x) for conv in layer.kernels]).mean(0)
    torch.testing.assert_close(layer(x), mean)
    layer.fuse()
    torch.testing.assert_close(layer(x), mean)
    assert sorted(layer.state_dict()) == ["bias", "weight"]


def test_gradients_reach_all_branches():
    merged, plain = InceptionConv2d(2, 3).double(), InceptionConv2d(2, 3).double()
    plain.load_state_dict(merged.state_dict())
    x = torch.randn(1, 2, 8, 8, dtype=torch.float64)
    merged(x).square().sum().backward()
    torch.stack([conv(x) for conv in plain.kernels]).mean(0).square().sum().backward()
    for ours, theirs in zip(merged.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("scope", ["batch", "sample"])
def test_planted_periods_are_found_in_order_of_strength(scope):
    time = torch.arange(96)
    x = 3 * torch.sin(2 * math.pi * time / 12) + 2 * torch.sin(2 * math.pi * time / 32) + 50
    periods, amplitude = find_periods(x[None, :, None].expand(2, -1, 3), 2, scope)
    assert periods.reshape(-1, 2)[0].tolist() == [12, 32]
    torch.testing.assert_close(amplitude, torch.tensor([[144.0, 96.0]] * 2), rtol=1e-4, atol=1e-3)


def test_each_sample_can_have_its_own_periods():
    time = torch.arange(60)
    x = torch.stack([torch.sin(2 * math.pi * time / p) for p in (6, 20)])[..., None]
    assert find_periods(x, 1, "sample")[0].tolist() == [[6], [20]]


@pytest.mark.parametrize("steps", [24, 37])
def test_periods_are_those_of_a_plain_definition(steps):
    generator = torch.Generator().manual_seed(steps)
    x = torch.randn(3, steps, 2, generator=generator, dtype=torch.float64)
    time = torch.arange(steps, dtype=torch.float64)
    table = torch.zeros(3, steps // 2, dtype=torch.float64)
    for frequency in range(1, steps // 2 + 1):
        angle = 2 * math.pi * frequency * time / steps
        real, imaginary = ((x * wave[:, None]).sum(1) for wave in (angle.cos(), angle.sin()))
        table[:, frequency - 1] = (real.square() + imaginary.square()).sqrt().mean(1)
    for scope, score in (("sample", table), ("batch", table.mean(0).expand(3, -1))):
        order = score.argsort(1, descending=True)[:, :4]
        periods, amplitude = find_periods(x, 4, scope)
        assert torch.equal(periods.expand(3, 4), steps // (order + 1))
        torch.testing.assert_close(amplitude, table.gather(1, order))


def test_bad_period_arguments_are_named():
    with pytest.raises(ValueError, match="top_k=4 must be from 1 to 3"):
        find_periods(torch.zeros(1, 7, 1), 4)
    with pytest.raises(ValueError, match="scope='each'"):
        find_periods(torch.zeros(1, 7, 1), 1, "each")


def test_positions_follow_the_definition_for_odd_widths():
    table = sinusoidal_positions(5, 7)
    assert table.shape == (5, 7)
    assert table[3, 4].item() == pytest.approx(math.sin(3 * 10000 ** (-4 / 7)))
    assert table[3, 5].item() == pytest.approx(math.cos(3 * 10000 ** (-4 / 7)))


def test_value_embedding_is_circular():
    embed = SeriesEmbedding(2, 4, 10).double().eval()
    x = torch.randn(1, 10, 2, dtype=torch.float64)
    shifted = embed(x.roll(3, 1)) - embed.positions
    torch.testing.assert_close(shifted, (embed(x) - embed.positions).roll(3, 1))


def test_standardisation_uses_observed_values_only():
    x = torch.randn(2, 50, 3, dtype=torch.float64) * 4 + 9
    mask = (torch.rand(2, 50, 3) > 0.3).double()
    y, mean, std = standardize_series(x, mask, eps=0.0)
    for b in range(2):
        for c in range(3):
            seen = x[b, :, c][mask[b, :, c] == 1]
            torch.testing.assert_close(mean[b, 0, c], seen.mean())
            torch.testing.assert_close(std[b, 0, c], seen.std(correction=0))
    torch.testing.assert_close(y * std + mean, torch.where(mask == 1, x, mean))
    full, _, _ = standardize_series(x)
    torch.testing.assert_close(full, standardize_series(x, torch.ones_like(x))[0])


@pytest.mark.parametrize("unit", [1e-20, 1e-6, 1e-3, 1e20])
def test_the_unit_of_a_series_does_not_matter(unit):
    x = 0.3 + 0.1 * torch.sin(torch.arange(60.0))[None, :, None]
    y, mean, std = standardize_series(x, published=False)
    scaled, scaled_mean, scaled_std = standardize_series(x * unit, published=False)
    torch.testing.assert_close(scaled, y, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scaled_mean / unit, mean, rtol=1e-5, atol=0)
    torch.testing.assert_close(scaled * scaled_std + scaled_mean, x * unit, rtol=1e-5, atol=0)
    level = torch.full((1, 60, 1), 0.001 * unit)
    assert standardize_series(level, published=False)[2].item() < 0.01 * level[0, 0, 0].item()


def test_scaling_first_changes_nothing_for_values_beyond_one():
    x = torch.randn(4, 50, 3, generator=torch.Generator().manual_seed(0)) * 2
    for ours, published in zip(standardize_series(x, published=False), standardize_series(x), strict=True):
        assert torch.equal(ours, published)
    small = 1e-5 * x
    assert standardize_series(small)[0].std() < 0.1 < 0.9 < standardize_series(small, published=False)[0].std()
