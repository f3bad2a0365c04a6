"""The two forms of the period convolution agree with each other and with the definition."""

import pytest
import torch
import torch.nn.functional as F

from blockzoo.kernels._dispatch import kernels_as
from blockzoo.kernels.period_conv import (
    period_candidates,
    period_conv,
    period_conv_folded,
    period_conv_fused,
    period_conv_gathered,
)

FORMS = [period_conv_folded, period_conv_gathered, period_conv_fused]


def definition(x, periods, weights, w1, b1, w2, b2):
    """Fold, convolve with `same` padding, unfold: one sample and one period at a time, nothing cropped."""
    half = w1.shape[-1] // 2
    out = torch.zeros_like(x)
    for sample, series in enumerate(x):
        for j, period in enumerate(periods.expand(len(x), -1)[sample].tolist()):
            rows = -(-len(series) // period)
            image = series.new_zeros(rows * period, series.shape[1])
            image[: len(series)] = series
            image = image.reshape(rows, period, -1).permute(2, 0, 1)[None]
            image = F.conv2d(F.gelu(F.conv2d(image, w1, b1, padding=half)), w2, b2, padding=half)
            out[sample] += weights[sample, j] * image[0].permute(1, 2, 0).reshape(rows * period, -1)[: len(series)]
    return out


def arguments(steps, size, scope, k=3, batch=3):
    generator = torch.Generator().manual_seed(steps + size)

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    candidates = torch.tensor(period_candidates(steps))
    shape = (k,) if scope == "batch" else (batch, k)
    periods = candidates[torch.randint(len(candidates), shape, generator=generator)]
    weights = [draw(4, 3, size, size), draw(4), draw(3, 4, size, size), draw(3)]
    return draw(batch, steps, 3), periods, draw(batch, k).softmax(1), *weights


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scope", ["batch", "sample"])
@pytest.mark.parametrize(("steps", "size"), [(2, 3), (3, 11), (29, 11), (30, 1), (64, 5), (97, 11)])
def test_forms_equal_the_definition(form, scope, steps, size):
    args = arguments(steps, size, scope)
    torch.testing.assert_close(form(*args), definition(*args), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scope", ["batch", "sample"])
def test_gradients(form, scope):
    x, periods, weights, *parameters = arguments(9, 3, scope, k=2, batch=2)
    inputs = [tensor.requires_grad_() for tensor in (x, weights, *parameters)]
    assert torch.autograd.gradcheck(lambda x, weights, *p: form(x, periods, weights, *p), inputs)


def test_candidates_are_all_periods_of_all_frequencies():
    assert period_candidates(10) == [2, 3, 5, 10]
    assert period_candidates(2) == [2]


@pytest.mark.parametrize("mode", ["auto", "torch", "triton"])
def test_any_dispatch_compiles_exports_and_gives_the_same(mode):
    class Layer(torch.nn.Module):
        def forward(self, *args):
            return period_conv(*args)

    args = [a.float() if a.is_floating_point() else a for a in arguments(11, 3, "sample", k=2, batch=2)]
    expected = period_conv_gathered(*args)
    with kernels_as(mode):
        torch.testing.assert_close(period_conv(*args), expected)
        compiled = torch.compile(Layer(), fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(*args), expected)
        program = torch.export.export(Layer(), tuple(args))
        torch.testing.assert_close(program.module()(*args), expected)
    assert not any("blockzoo" in str(node.target) for node in program.graph.nodes)
