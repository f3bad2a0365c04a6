"""Runs the kernels of the residual norm on CPU tensors; see tests/kernels/test_interpreter.py."""

import pytest
import torch

from blockzoo.kernels._testing import assert_near, poisoned_empty
from blockzoo.kernels.residual_norm import residual_norm_op, residual_norm_ref

PARTS = [(1, 1, 1, 1), (0, 0, 0, 0), (0, 1, 1, 0), (1, 0, 0, 1)]  # scale, keep, weight, bias
SHAPES = [(2, 3, 5), (1, 1, 1), (3, 7, 33), (0, 2, 4), (2, 100)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernels_equal_the_float64_reference(shape, dtype):
    for scaled, masked, weighted, biased in PARTS:
        x, y, gz, gout = (torch.randn(shape).to(dtype) for _ in range(4))
        scale, weight, bias = (torch.randn(shape[-1]).to(dtype) if on else None for on in (scaled, weighted, biased))
        keep = torch.randint(0, 2, shape[:1]) * 1.25 if masked else None
        inputs = [x, y, scale, weight, bias]
        # A constant row has a huge 1 / deviation, which rounding of its values would show: one value has eps = 1.
        eps = 1.0 if shape[-1] == 1 else 1e-5
        results = []
        for wide in (False, True):
            leaves = [None if t is None else (t.double() if wide else t.clone()).requires_grad_() for t in inputs]
            first, second, *parameters = leaves
            arguments = (first, second, parameters[0], keep, *parameters[1:], eps)
            if wide:
                outputs = residual_norm_ref(*arguments)
            else:
                with poisoned_empty():
                    outputs = residual_norm_op(*arguments)[:2]
            present = [leaf for leaf in leaves if leaf is not None]
            with poisoned_empty():
                grads = torch.autograd.grad(outputs, present, [g.to(outputs[0].dtype) for g in (gz, gout)])
            results.append([*outputs, *grads])
        for ours, reference in zip(*results, strict=True):
            assert_near(ours, reference, dtype)


def test_strides():
    x, y = torch.randn(2, 6, 5).mT, torch.randn(2, 5, 12)[..., ::2]
    ours = residual_norm_op(x, y, None, None, None, None, 1e-5)[:2]
    for one, other in zip(ours, residual_norm_ref(x.double(), y.double(), None, None, None, None, 1e-5), strict=True):
        assert_near(one, other, torch.float32)
