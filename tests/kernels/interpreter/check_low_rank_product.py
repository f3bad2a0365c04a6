"""Runs the kernel of the low-rank product on CPU tensors; see tests/kernels/test_interpreter.py."""

import pytest
import torch

from blockzoo.kernels._testing import assert_near, poisoned_empty
from blockzoo.kernels.low_rank_product import low_rank_product_op, low_rank_product_ref

# rows, I, J, K, rank, channels
CASES = [(3, 4, 4, 4, 7, 5), (1, 1, 9, 3, 1, 1), (2, 16, 9, 25, 67, 33), (0, 4, 4, 4, 7, 5), (2, 9, 9, 9, 28, 100)]


def draw(rows, i, j, k, rank, chans, dtype):
    shapes = [(rows, i, chans), (rows, j, chans), (i, rank), (j, rank), (k, rank)]
    return [(torch.randn(shape) / shape[0] ** 0.5 if len(shape) == 2 else torch.randn(shape)).to(dtype)
            for shape in shapes]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernel_equals_the_float64_reference(case, dtype):
    inputs = draw(*case, dtype)
    with poisoned_empty():
        out = low_rank_product_op(*inputs)
    assert_near(out, low_rank_product_ref(*(tensor.double() for tensor in inputs)), dtype)


def test_gradients_and_strides():
    x1, x2, *factors = draw(2, 4, 9, 3, 7, 6, torch.float32)
    x1 = torch.randn(2, 6, 4).mT
    results = []
    for dtype, function in ((torch.float32, low_rank_product_op), (torch.float64, low_rank_product_ref)):
        inputs = [tensor.to(dtype).requires_grad_() for tensor in (x1, x2)]
        out = function(*inputs, *(factor.to(dtype) for factor in factors))
        first = torch.autograd.grad(out.sin().sum(), inputs, create_graph=True)
        results.append([out, *first, *torch.autograd.grad(sum(t.square().sum() for t in first), inputs)])
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours.double(), reference, rtol=1e-4, atol=1e-3)
