"""Runs the kernel of the separable convolution on CPU tensors; see tests/kernels/test_interpreter.py."""

import itertools

import pytest
import torch

from blockzoo.kernels._testing import assert_near, poisoned_empty
from blockzoo.kernels.separable_conv import _place, separable_conv_op, separable_conv_ref

TYPES = [torch.float32, torch.bfloat16, torch.float16]
# (B, C, H, W), out channels, window, stride
CASES = [
    ((2, 7, 9, 6), 13, 3, 1),
    ((2, 7, 9, 6), 13, 3, 2),
    ((1, 37, 5, 5), 3, 5, 2),
    ((1, 5, 8, 11), 67, 5, 1),
    ((2, 3, 10, 7), 17, 7, 2),
    ((1, 16, 3, 2), 16, 7, 1),
    ((3, 1, 1, 1), 1, 3, 1),
    ((1, 2, 1, 1), 2, 7, 2),
    ((0, 4, 6, 6), 5, 3, 1),
]


def draw(shape, out_chans, window, dtype):
    chans = shape[1]
    dw, pw = torch.randn(chans, 1, window, window) / window, torch.randn(out_chans, chans, 1, 1) / chans**0.5
    tensors = torch.randn(shape), dw, torch.randn(chans), pw, torch.randn(out_chans)
    return [tensor.to(dtype) for tensor in tensors]


def check(tensors, residual, dtype, *rest):
    with poisoned_empty():
        y = separable_conv_op(*tensors, residual, *rest)
    wide = [None if tensor is None else tensor.double() for tensor in (*tensors, residual)]
    assert_near(y, separable_conv_ref(*wide, *rest), dtype)
    return y


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernel_equals_the_float64_reference(case, dtype):
    shape, out_chans, window, stride = case
    for padding, acts in (("same", ("relu", "none", "none")), (window // 2, ("none", "silu", "relu"))):
        tensors = draw(shape, out_chans, window, dtype)
        (top, height), (left, width) = (_place(size, window, stride, padding) for size in shape[2:])
        y = check(tensors, None, dtype, stride, top, left, height, width, *acts, False)
        assert y.shape == (shape[0], out_chans, height, width)


@pytest.mark.parametrize("dtype", TYPES)
def test_every_part_may_be_missing(dtype):
    x, dw, dw_bias, pw, bias = draw((2, 5, 4, 3), 6, 3, dtype)
    residual = torch.randn(2, 6, 4, 3).to(dtype)
    every = itertools.product((True, False), repeat=4)
    for one, other, last, skip in every if dtype == torch.float32 else [(True,) * 4, (False,) * 4]:
        tensors = [x, dw, dw_bias if one else None, pw, bias if other else None]
        check(tensors, residual if last else None, dtype, 1, 1, 1, 4, 3, "relu", "silu", "none", skip)


def test_any_strides_and_no_padding():
    x, dw, dw_bias, pw, bias = draw((2, 5, 8, 9), 6, 3, torch.float32)
    residual = torch.randn(2, 3, 4, 6).permute(0, 3, 1, 2)
    inputs = [
        x.contiguous(memory_format=torch.channels_last),
        x.transpose(2, 3).contiguous().transpose(2, 3),
        torch.randn(2, 10, 16, 27)[:, ::2, ::2, ::3],
        torch.randn(1, 5, 8, 9).expand(2, -1, -1, -1),
    ]
    for strided in inputs:
        dw = torch.randn(3, 3, 1, 5).permute(3, 2, 0, 1)
        pw = torch.randn(5, 6, 1, 1).transpose(0, 1)
        check([strided, dw, dw_bias, pw, bias], residual, torch.float32, 2, 0, 0, 3, 4, "none", "none", "none", False)


def test_values_that_are_no_numbers_stay_visible():
    x, dw, dw_bias, pw, bias = draw((1, 2, 4, 4), 3, 3, torch.float32)
    x[0, 1, 2, 2] = float("nan")
    y = separable_conv_op(x, dw, dw_bias, pw, bias, None, 1, 1, 1, 4, 4, "relu", "relu", "relu", False)
    assert y.isnan()[0, :, 1:, 1:].all() and not y.isnan()[0, :, 0].any()
