"""Runs the kernels of the folded convolution on CPU tensors; see tests/kernels/test_interpreter.py."""

import pytest
import torch

from blockzoo.kernels._testing import assert_near, poisoned_empty
from blockzoo.kernels.fold_conv import fold_conv, fold_conv_ref, fold_conv_weight, fold_conv_weight_ref


def draw(steps, size, length, chans, out_chans, kernel, periods, dtype):
    batch, k = periods.shape
    x = torch.randn(batch, k, size, chans).to(dtype)
    w = (torch.randn(kernel, kernel, chans, out_chans) / kernel).to(dtype)
    return x, w, torch.randn(out_chans).to(dtype), torch.randn(batch, k, length, out_chans).to(dtype)


CASES = [
    # steps, slots of x, slots of y, C, F, K, periods
    (12, 12, 15, 3, 5, 3, [[5, 12], [1, 4]]),
    (7, 9, 7, 1, 1, 5, [[3], [7], [2]]),
    (2, 2, 2, 2, 3, 1, [[1, 2]]),
    (67, 67, 70, 17, 33, 3, [[11, 33]]),
    (6, 6, 6, 2, 2, 3, []),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernels_equal_the_float64_reference(case, dtype):
    *sizes, table = case
    periods = torch.tensor(table, dtype=torch.int64) if table else torch.zeros(0, 2, dtype=torch.int64)
    steps, _, length, _, _, kernel = sizes
    x, w, bias, g = draw(*sizes, periods, dtype)
    with poisoned_empty():
        y = fold_conv(x, w, bias, periods, steps, length)
        dw = fold_conv_weight(x, g, periods, steps, kernel)
    assert_near(y, fold_conv_ref(x.double(), w.double(), bias.double(), periods, steps, length), dtype)
    assert_near(dw, fold_conv_weight_ref(x.double(), g.double(), periods, steps, kernel), dtype)


def test_any_strides():
    periods = torch.tensor([3, 4]).expand(2, 2)
    x = torch.randn(2, 5, 11)[:, :, :10].transpose(1, 2).unsqueeze(1).expand(-1, 2, -1, -1)
    w = torch.randn(4, 5, 3, 3).permute(2, 3, 1, 0)
    g = torch.randn(2, 4, 12, 2).permute(0, 3, 2, 1)
    y = fold_conv(x, w, None, periods, 10, 12)
    assert_near(y, fold_conv_ref(x.double(), w.double(), None, periods, 10, 12), torch.float32)
    dw = fold_conv_weight(x, g, periods, 10, 3)
    assert_near(dw, fold_conv_weight_ref(x.double(), g.double(), periods, 10, 3), torch.float32)


def test_gradients_of_kernels_equal_those_of_the_reference():
    periods = torch.tensor([[5, 12], [1, 4]])
    x, w, bias, g = draw(12, 12, 15, 3, 5, 3, periods, torch.float32)
    ours = [tensor.clone().requires_grad_() for tensor in (x, w, bias)]
    theirs = [tensor.double().requires_grad_() for tensor in (x, w, bias)]
    first = torch.autograd.grad((fold_conv(*ours, periods, 12, 15).sin() * g).sum(), ours, create_graph=True)
    wide = fold_conv_ref(*theirs, periods, 12, 15)
    second = torch.autograd.grad((wide.sin() * g.double()).sum(), theirs, create_graph=True)
    for one, other in zip(first, second, strict=True):
        assert_near(one, other, torch.float32)
    again = torch.autograd.grad(sum(t.square().sum() for t in first), ours)
    other = torch.autograd.grad(sum(t.square().sum() for t in second), theirs)
    for one, two in zip(again, other, strict=True):
        torch.testing.assert_close(one.double(), two, rtol=1e-4, atol=1e-3)
