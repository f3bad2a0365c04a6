"""The operator of the folded convolution: reference, derivatives, registration, compiled launches."""

import importlib

import pytest
import torch
import torch.nn.functional as F

from blockzoo.kernels._testing import compiled_launches
from blockzoo.kernels.fold_conv import fold_conv, fold_conv_ref, fold_conv_weight

module = importlib.import_module("blockzoo.kernels.fold_conv")

PERIODS = torch.tensor([[3, 4], [7, 1]])


def arguments(steps=7, length=8, chans=2, out_chans=3, kernel=3, dtype=torch.float64):
    x = torch.randn(2, 2, steps, chans, dtype=dtype)
    return x, torch.randn(kernel, kernel, chans, out_chans, dtype=dtype), torch.randn(out_chans, dtype=dtype), length


def test_reference_is_a_convolution_of_the_folded_series():
    x, w, bias, length = arguments()
    out = fold_conv_ref(x, w, bias, PERIODS, 7, length)
    for b in range(2):
        for j, period in enumerate(PERIODS[b].tolist()):
            rows = -(-7 // period)
            image = F.pad(x[b, j], (0, 0, 0, rows * period - 7)).T.reshape(1, 2, rows, period)
            image = F.conv2d(image, w.permute(3, 2, 0, 1), bias, padding=1).flatten(2)[0].T
            expected = torch.cat([image, bias.expand(length, -1)])[:length]
            torch.testing.assert_close(out[b, j, : rows * period], expected[: rows * period])


def test_derivatives_of_first_and_second_order():
    x, w, bias, length = arguments(steps=4, length=4, chans=1, out_chans=2)
    periods = torch.tensor([[3, 4], [2, 1]])
    inputs = [tensor.requires_grad_() for tensor in (x, w, bias)]
    assert torch.autograd.gradcheck(lambda *a: fold_conv(*a, periods, 4, length), inputs)
    assert torch.autograd.gradgradcheck(lambda *a: fold_conv(*a, periods, 4, length), inputs)
    g = torch.randn(2, 2, length, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda a, b: fold_conv_weight(a, b, periods, 4, 3), [x, g])


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # opcheck reads it
@pytest.mark.parametrize("has_bias", [True, False])
def test_registration_is_sound(has_bias):
    x, w, bias, length = arguments(dtype=torch.float32)
    x, w = x.requires_grad_(), w.requires_grad_()
    torch.library.opcheck(fold_conv, (x, w, bias if has_bias else None, PERIODS, 7, length))
    torch.library.opcheck(fold_conv_weight, (x, torch.randn(2, 2, length, 3, requires_grad=True), PERIODS, 7, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_launches_compile_for_hopper(dtype):
    pytest.importorskip("triton", reason="kernels need the package triton")
    x, w = torch.zeros(2, 2, 96, 32, dtype=dtype), torch.zeros(11, 11, 32, 40, dtype=dtype)
    periods, g = torch.ones(2, 2, dtype=torch.int64), torch.zeros(2, 2, 100, 40, dtype=dtype)

    def call():
        module._launch(x, w, w[0, 0, 0], periods, 96, 100)
        module._launch_weight(x, g, periods, 96, 11)

    for name, compiled in compiled_launches(module, ["_fold_conv_kernel", "_fold_conv_weight_kernel"], call):
        assert compiled.asm["cubin"], name
        assert compiled.metadata.shared <= 227 * 1024, name
        assert "mma" in compiled.asm["ptx"], name
