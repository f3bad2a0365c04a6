"""Every public operation in torch.compile, torch.export, autocast, vmap and CUDA graphs, whatever the dispatch."""

import pytest
import torch

from blockzoo.kernels._dispatch import kernels_as
from blockzoo.kernels.edge_product import edge_product, edge_product_op, make_segments
from blockzoo.kernels.fold_conv import fold_conv, fold_conv_weight
from blockzoo.kernels.low_rank_product import low_rank_product, low_rank_product_op
from blockzoo.kernels.period_conv import period_conv
from blockzoo.kernels.residual_norm import residual_norm, residual_norm_op
from blockzoo.kernels.separable_conv import separable_conv, separable_conv_op
from blockzoo.kernels.spectral_mix import mode_product, spectral_mix

SEGMENTS = make_segments(torch.tensor([0, 2, 2, 1]), 3), make_segments(torch.tensor([1, 0, 1, 1]), 3)
PERIODS = torch.tensor([[3, 4], [11, 2]])
FACTORS = [torch.randn(rows, 5, generator=torch.Generator().manual_seed(rows)) for rows in (4, 3, 2)]


def edges(x, matrix, weight):
    ends = [type(end)(*(part.to(x.device) for part in end)) for end in SEGMENTS]
    return edge_product(x, matrix, weight, *ends)


def low_rank(x1, x2):
    return low_rank_product(x1, x2, *(factor.to(x1.device) for factor in FACTORS))


def norm(x, y, scale, weight, bias):
    return residual_norm(x, y, scale, None, weight, bias)[1]


def periods(x, weights, w1, b1, w2, b2):
    return period_conv(x, PERIODS.to(x.device), weights, w1, b1, w2, b2)


def separable(x, dw, pw, bias):
    return separable_conv(x, dw, pw, bias=bias, stride=2, act_in="relu", act_mid="silu")


OPERATIONS = {
    "edge_product": (edges, [(3, 4, 2), (4, 3, 4), (4, 2)]),
    "low_rank_product": (low_rank, [(2, 4, 7), (2, 3, 7)]),
    "residual_norm": (norm, [(2, 3, 8), (2, 3, 8), (8,), (8,), (8,)]),
    "period_conv": (periods, [(2, 11, 3), (2, 2), (4, 3, 3, 3), (4,), (3, 4, 3, 3), (3,)]),
    "separable_conv": (separable, [(2, 5, 7, 6), (5, 1, 3, 3), (4, 5, 1, 1), (4,)]),
    "spectral_mix": (spectral_mix, [(2, 2, 3, 4), (3, 4, 5, 2)]),
}
"""For each: a function of tensors, and their shapes."""


@pytest.fixture(autouse=True)
def _fresh_graphs():
    """All operations go through the same few functions, which Dynamo compiles only so often."""
    torch.compiler.reset()


def draw(name, device="cpu"):
    function, shapes = OPERATIONS[name]
    return function, [torch.randn(shape, device=device) / shape[-1] ** 0.5 for shape in shapes]


def layer(function):
    class Layer(torch.nn.Module):
        def forward(self, *args):
            return function(*args)

    return Layer()


@pytest.mark.parametrize("mode", ["auto", "triton"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_one_graph_with_its_gradient_and_a_portable_export(name, mode):
    function, args = draw(name)
    expected = function(*(arg.double() for arg in args)).float()
    for arg in args:
        arg.requires_grad_()
    with kernels_as(mode):
        compiled = torch.compile(layer(function), fullgraph=True, backend="aot_eager")
        out = compiled(*args)
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
        ours = torch.autograd.grad(out.sin().sum(), args)
        program = torch.export.export(layer(function), tuple(args))
        torch.testing.assert_close(program.module()(*args), expected, rtol=1e-4, atol=1e-5)
    wide = [arg.detach().double().requires_grad_() for arg in args]
    theirs = torch.autograd.grad(function(*wide).sin().sum(), wide)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other.float(), rtol=1e-3, atol=1e-4)
    assert not any("blockzoo" in str(node.target) for node in program.graph.nodes)


def test_compiled_graphs_hold_operators_where_kernels_are_asked_for():
    names: list[str] = []

    def backend(graph, inputs):
        names.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    for name in OPERATIONS:
        function, args = draw(name)
        expected = function(*args)
        for mode in ("triton", "torch"):
            torch.compiler.reset()
            names.clear()
            with kernels_as(mode), torch.no_grad():
                compiled = torch.compile(layer(function), fullgraph=True, backend=backend)
                torch.testing.assert_close(compiled(*args), expected, rtol=1e-4, atol=1e-5)
            assert any("blockzoo" in target for target in names) == (mode == "triton"), (name, mode)


def test_gradients_inside_a_compiled_graph_hold_torch_operators():
    function, (x, *rest) = draw("edge_product")

    def step(x):
        return torch.func.grad(lambda x: function(x, *rest).square().sum())(x), function(x, *rest)

    expected = step(x)
    with kernels_as("triton"):
        torch.testing.assert_close(torch.compile(step, fullgraph=True, backend="aot_eager")(x), expected)


@pytest.mark.parametrize("mode", ["auto", "triton"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_autocast_with_gradients_alone_and_in_a_graph(name, mode):
    function, args = draw(name)
    expected = function(*(arg.double() for arg in args)).float()
    for arg in args:
        arg.requires_grad_()
    compiled = torch.compile(layer(function), fullgraph=True, backend="aot_eager")
    with kernels_as(mode):
        results = []
        for form in (function, compiled):
            with torch.autocast("cpu", torch.bfloat16):
                out = form(*args)
            results.append(out)
            # A rounding to bfloat16 is at most 2 ** -9 of a value; ten in a row stay below this.
            assert (out.float() - expected).norm() < 0.02 * expected.norm()
            assert all(grad.isfinite().all() for grad in torch.autograd.grad(out.float().sum(), args))
        assert results[0].dtype == results[1].dtype


@pytest.mark.parametrize("mode", ["auto", "triton"])
@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - {"period_conv"}))
def test_vmap_and_functional_gradients_run_the_reference(name, mode):
    # Not the period convolution, which reads its periods on the host where the reference runs.
    function, args = draw(name)
    _, more = draw(name)
    stacked = [torch.stack(pair) for pair in zip(args, more, strict=True)]
    with kernels_as(mode):
        out = torch.vmap(function)(*stacked)
        torch.testing.assert_close(out, torch.stack([function(*args), function(*more)]), rtol=1e-4, atol=1e-5)
        grad = torch.func.grad(lambda x: function(x, *args[1:]).sin().sum())(args[0])
    leaf = args[0].double().requires_grad_()
    (wide,) = torch.autograd.grad(function(leaf, *(arg.double() for arg in args[1:])).sin().sum(), leaf)
    torch.testing.assert_close(grad, wide.float(), rtol=1e-3, atol=1e-4)


def strided(*shape):
    """Random values whose memory has another order than the axes, and gaps."""
    return torch.randn(*reversed(shape), 2)[..., 0].permute(*reversed(range(len(shape))))


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # opcheck reads it
def test_registrations_hold_for_strided_inputs():
    ends = (*SEGMENTS[0], *SEGMENTS[1])
    assert strided(2, 3, 4).shape == (2, 3, 4) and not strided(2, 3, 4).is_contiguous()
    calls = [
        (edge_product_op, (strided(3, 4, 2), strided(4, 3, 4), strided(4, 2), *ends)),
        (low_rank_product_op, (strided(2, 4, 7), strided(2, 3, 7), *FACTORS)),
        (residual_norm_op, (strided(2, 3, 8), strided(2, 3, 8), None, None, strided(8, 1)[:, 0], None, 1e-5)),
        (fold_conv, (strided(2, 2, 7, 3), strided(3, 3, 3, 4), None, torch.tensor([[3, 4], [7, 1]]), 7, 8)),
        (fold_conv_weight, (strided(2, 2, 7, 3), strided(2, 2, 8, 4), torch.tensor([[3, 4], [7, 1]]), 7, 3)),
        (mode_product, (strided(3, 2, 4, 5), strided(3, 2, 5, 2), False, True, True)),
        (separable_conv_op, (strided(2, 5, 7, 6), strided(5, 1, 3, 3), None, strided(4, 5, 1, 1), None, None,
                             1, 1, 1, 7, 6, "relu", "none", "none", True)),
    ]  # fmt: skip
    for operator, args in calls:
        torch.library.opcheck(operator, args, test_utils=("test_schema", "test_faketensor"))


def test_parts_that_would_be_broadcast_go_to_the_reference():
    x, y = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    with kernels_as("triton"):
        z, _ = residual_norm(x, y, scale=torch.tensor(0.5))
        torch.testing.assert_close(z, x + 0.5 * y)
        with pytest.raises(RuntimeError):
            residual_norm(x, y, keep=torch.ones(5))
        matrix = torch.randn(4, 3, 4, dtype=torch.bfloat16)
        with pytest.raises(RuntimeError):
            edge_product(torch.randn(4, 4, 2), matrix)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", OPERATIONS)
def test_kernels_in_a_cuda_graph(name):
    function, args = draw(name, "cuda")
    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with kernels_as("triton"), torch.no_grad():
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                function(*args)  # compiles kernels
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(graph):
            out = function(*args)
        for arg in args:
            arg.copy_(torch.randn_like(arg) / arg.shape[-1] ** 0.5)
        graph.replay()
    expected = function(*(arg.double() for arg in args))
    torch.testing.assert_close(out.double(), expected, rtol=1e-3, atol=1e-4)
