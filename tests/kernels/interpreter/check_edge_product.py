"""Runs the kernels of the edge product on CPU tensors; see tests/kernels/test_interpreter.py."""

import itertools

import pytest
import torch

from blockzoo.kernels._testing import assert_near, poisoned_empty
from blockzoo.kernels.edge_product import (
    edge_product_matrix,
    edge_product_op,
    edge_product_ref,
    edge_product_weight,
    make_segments,
)

NOTHING = (None, None, None)
# nodes, edges, rows in, rows out, channels; the last node has no edges
CASES = [(5, 11, 4, 4, 7), (3, 1, 1, 9, 1), (4, 6, 9, 1, 33), (3, 0, 4, 4, 16), (2, 3, 16, 25, 100)]


def draw(nodes, edges, rows_in, rows_out, chans, gathered, reduced, weighted, dtype):
    sender, receiver = torch.randint(max(1, nodes - 1), (2, edges))
    gather = make_segments(sender, nodes) if gathered else NOTHING
    reduce = make_segments(receiver, nodes) if reduced else NOTHING
    x = torch.randn(nodes if gathered else edges, rows_in, chans).to(dtype)
    matrix = torch.randn(edges, rows_out, rows_in).to(dtype)
    g = torch.randn(nodes if reduced else edges, rows_out, chans).to(dtype)
    return x, matrix, torch.randn(edges, chans).to(dtype) if weighted else None, g, gather, reduce


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernels_equal_the_float64_reference(case, dtype):
    nodes, edges = case[:2]
    for gathered, reduced, weighted in itertools.product((True, False), repeat=3):
        x, matrix, weight, g, gather, reduce = draw(*case, gathered, reduced, weighted, dtype)
        with poisoned_empty():
            out = edge_product_op(x, matrix, weight, *gather, *reduce)
            dm = edge_product_matrix(g, weight, x, *gather, *reduce, edges)
            dw = edge_product_weight(g, matrix, x, *gather, *reduce)
        ones = torch.ones(edges, case[4])
        inputs = [t.double().requires_grad_() for t in (x, matrix, ones if weight is None else weight)]
        wide = edge_product_ref(*inputs, gather[0], reduce[0], nodes)
        _, expected_dm, expected_dw = torch.autograd.grad(wide, inputs, g.double())
        assert_near(out, wide, dtype)
        assert_near(dm, expected_dm, dtype)
        assert_near(dw, expected_dw, dtype)


def test_transposed_matrices_and_strided_features():
    x, matrix, weight, _, gather, reduce = draw(5, 11, 4, 9, 7, True, True, True, torch.float32)
    x = torch.randn(5, 7, 4).transpose(1, 2)
    matrix = torch.randn(11, 4, 9).mT
    out = edge_product_op(x, matrix, weight, *gather, *reduce)
    assert_near(out, edge_product_ref(x.double(), matrix.double(), weight.double(), gather[0], reduce[0], 5), x.dtype)


def test_gradients_of_second_order_equal_those_of_the_reference():
    *tensors, _, gather, reduce = draw(4, 6, 4, 4, 5, True, True, True, torch.float32)
    results = []
    for wide in (False, True):
        inputs = [t.double() if wide else t for t in tensors]
        inputs = [t.clone().requires_grad_() for t in inputs]
        if wide:
            out = edge_product_ref(*inputs, gather[0], reduce[0], 4)
        else:
            out = edge_product_op(*inputs, *gather, *reduce)
        first = torch.autograd.grad(out.sin().sum(), inputs, create_graph=True)
        results.append([*first, *torch.autograd.grad(sum(t.square().sum() for t in first), inputs)])
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(
            ours.double(), reference, rtol=1e-4, atol=1e-4 * float(reference.detach().abs().max())
        )


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_indices_may_be_strided_and_short(dtype):
    pairs = torch.randint(4, (11, 2)).to(dtype)  # the ends of an edge side by side
    gather, reduce = (make_segments(pairs[:, end], 5) for end in (0, 1))
    x, matrix, weight, g, _, _ = draw(5, 11, 4, 9, 7, True, True, True, torch.float32)
    inputs = [tensor.double().requires_grad_() for tensor in (x, matrix, weight)]
    wide = edge_product_ref(*inputs, gather.node, reduce.node, 5)
    grads = torch.autograd.grad(wide, inputs, g.double())
    ours = [tensor.clone().requires_grad_() for tensor in (x, matrix, weight)]
    out = edge_product_op(*ours, *gather, *reduce)
    for one, other in zip((out, *torch.autograd.grad(out, ours, g)), (wide, *grads), strict=True):
        assert_near(one, other, torch.float32)
