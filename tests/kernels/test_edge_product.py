"""The operators of the edge product: derivatives, registration, compiled launches, dispatch."""

import importlib

import pytest
import torch

from blockzoo.kernels._dispatch import kernels_as
from blockzoo.kernels._testing import compiled_launches
from blockzoo.kernels.edge_product import (
    edge_product,
    edge_product_matrix,
    edge_product_op,
    edge_product_weight,
    make_segments,
)

module = importlib.import_module("blockzoo.kernels.edge_product")

NOTHING = (None, None, None)


def arguments(dtype=torch.float64, nodes=3, chans=2):
    sender, receiver = torch.tensor([0, 2, 2, 1]), torch.tensor([1, 0, 1, 1])
    x = torch.randn(nodes, 4, chans, dtype=dtype, requires_grad=True)
    matrix = torch.randn(4, 3, 4, dtype=dtype, requires_grad=True)
    weight = torch.randn(4, chans, dtype=dtype, requires_grad=True)
    return x, matrix, weight, make_segments(sender, nodes), make_segments(receiver, nodes)


def test_edges_are_summed_at_their_receivers():
    x, matrix, weight, gather, reduce = arguments()
    out = edge_product(x, matrix, weight, gather, reduce)
    expected = torch.zeros(3, 3, 2, dtype=torch.float64)
    for edge, (s, r) in enumerate(zip(gather.node.tolist(), reduce.node.tolist(), strict=True)):
        expected[r] += weight[edge] * (matrix[edge] @ x[s])
    torch.testing.assert_close(out, expected)
    assert reduce.offsets.tolist() == [0, 1, 4, 4]


@pytest.mark.parametrize(("gathered", "reduced"), [(True, True), (False, True), (True, False)])
def test_derivatives_close_under_the_form(gathered, reduced):
    x, matrix, weight, gather, reduce = arguments(chans=1)
    gather, reduce = gather if gathered else NOTHING, reduce if reduced else NOTHING
    if not gathered:
        x = torch.randn(4, 4, 1, dtype=torch.float64, requires_grad=True)
    g = torch.randn(3 if reduced else 4, 3, 1, dtype=torch.float64, requires_grad=True)
    ends = (*gather, *reduce)
    assert torch.autograd.gradgradcheck(lambda *a: edge_product_op(*a, *ends), (x, matrix, weight))
    assert torch.autograd.gradcheck(lambda *a: edge_product_matrix(*a, *ends, 4), (g, weight, x))
    assert torch.autograd.gradcheck(lambda *a: edge_product_weight(*a, *ends), (g, matrix, x))


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # opcheck reads it
def test_registration_is_sound():
    x, matrix, weight, gather, reduce = arguments(torch.float32)
    g = torch.randn(3, 3, 2)
    torch.library.opcheck(edge_product_op, (x, matrix, weight, *gather, *reduce))
    torch.library.opcheck(edge_product_op, (x, matrix, None, *gather, *NOTHING))
    torch.library.opcheck(edge_product_matrix, (g, None, x, *gather, *reduce, 4))
    torch.library.opcheck(edge_product_weight, (g, matrix, x, *gather, *reduce))


@pytest.mark.parametrize("mode", ["auto", "torch", "triton"])
def test_any_dispatch_compiles_exports_and_differentiates(mode):
    class Layer(torch.nn.Module):
        def forward(self, x, matrix, weight, *ends):
            gather, reduce = module.Segments(*ends[:3]), module.Segments(*ends[3:])

            def total(x):
                return edge_product(x, matrix, weight, gather, reduce).square().sum()

            if not torch.compiler.is_dynamo_compiling():
                return edge_product(x, matrix, weight, gather, reduce)
            return torch.func.grad(total)(x)

    x, matrix, weight, gather, reduce = arguments(torch.float32)
    args = [x.detach(), matrix.detach(), weight.detach(), *gather, *reduce]
    wide = [a.double() if a.is_floating_point() else a for a in args]
    with kernels_as(mode):
        out = Layer()(*args)
        torch.testing.assert_close(out.double(), Layer()(*wide), rtol=1e-5, atol=1e-5)
        (expected,) = torch.autograd.grad(edge_product(x, matrix, weight, gather, reduce).square().sum(), x)
        compiled = torch.compile(Layer(), fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(*args), expected)
        program = torch.export.export(Layer(), tuple(args), strict=False)
        torch.testing.assert_close(program.module()(*args), out)
    assert not any("blockzoo" in str(node.target) for node in program.graph.nodes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [9, 25])
def test_launches_compile_for_hopper(dtype, rows):
    pytest.importorskip("triton", reason="kernels need the package triton")
    ends = make_segments(torch.tensor([0, 1, 1]), 2)
    x, matrix = torch.zeros(2, rows, 128, dtype=dtype), torch.zeros(3, rows, rows, dtype=dtype)
    weight = torch.zeros(3, 128, dtype=dtype)

    def call():
        both = module.Ends.of(ends, ends)
        module._launch(x, matrix, weight, both)
        module._launch_matrix(x, weight, x, both, 3)
        module._launch_weight(x, matrix, x, both)

    names = ["_edge_product_kernel", "_edge_product_matrix_kernel", "_edge_product_weight_kernel"]
    for name, compiled in compiled_launches(module, names, call):
        assert compiled.asm["cubin"], name
        assert compiled.metadata.shared <= 227 * 1024, name
