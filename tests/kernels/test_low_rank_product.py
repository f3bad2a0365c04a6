"""The operator of the low-rank product: derivatives, registration, dispatch, compiled launches."""

import importlib

import pytest
import torch

from blockzoo.kernels._dispatch import kernels_as
from blockzoo.kernels._testing import compiled_launches
from blockzoo.kernels.low_rank_product import low_rank_product, low_rank_product_op

module = importlib.import_module("blockzoo.kernels.low_rank_product")


def arguments(dtype=torch.float64, chans=2):
    x1, x2 = torch.randn(2, 4, chans, dtype=dtype), torch.randn(2, 3, chans, dtype=dtype)
    return [x1.requires_grad_(), x2.requires_grad_(), *(torch.randn(rows, 5, dtype=dtype) for rows in (4, 3, 2))]


def test_it_is_the_bilinear_map_of_its_factors():
    x1, x2, a, b, c = arguments()
    tensor = torch.einsum("ir,jr,kr->ijk", a, b, c)
    torch.testing.assert_close(low_rank_product(x1, x2, a, b, c), torch.einsum("ijk,nic,njc->nkc", tensor, x1, x2))


def test_derivatives_of_first_and_second_order():
    x1, x2, *factors = arguments(chans=1)
    assert torch.autograd.gradcheck(lambda *x: low_rank_product_op(*x, *factors), (x1, x2))
    assert torch.autograd.gradgradcheck(lambda *x: low_rank_product_op(*x, *factors), (x1, x2))


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # opcheck reads it
def test_registration_is_sound():
    torch.library.opcheck(low_rank_product_op, tuple(arguments(torch.float32)))


def test_trainable_factors_get_their_gradient_from_the_reference():
    x1, x2, a, b, c = arguments(torch.float32)
    a.requires_grad_()
    with kernels_as("triton"):
        low_rank_product(x1, x2, a, b, c).sum().backward()
    assert a.grad is not None and a.grad.abs().max() > 0


@pytest.mark.parametrize("mode", ["auto", "torch", "triton"])
def test_any_dispatch_compiles_and_exports(mode):
    class Layer(torch.nn.Module):
        def forward(self, *args):
            return low_rank_product(*args)

    args = [tensor.detach() for tensor in arguments(torch.float32)]
    with kernels_as(mode):
        expected = Layer()(*(tensor.double() for tensor in args)).float()
        torch.testing.assert_close(Layer()(*args), expected)
        torch.testing.assert_close(torch.compile(Layer(), fullgraph=True, backend="aot_eager")(*args), expected)
        program = torch.export.export(Layer(), tuple(args))
    assert not any("blockzoo" in str(node.target) for node in program.graph.nodes)


@pytest.mark.parametrize("mode", ["torch", "triton"])
@pytest.mark.parametrize("shape", [(3, 4, 0), (0, 4, 5), (2, 0, 4, 5), (4, 0), (4, 5)])
def test_inputs_without_rows_or_channels(mode, shape):
    pytest.importorskip("triton", reason="kernels need the package triton")
    x1, factor = torch.randn(shape, requires_grad=True), torch.randn(4, 6)
    with kernels_as(mode):
        out = low_rank_product(x1, x1, factor, factor, torch.randn(3, 6))
    assert out.shape == (*shape[:-2], 3, shape[-1])
    out.sum().backward()
    assert x1.grad.shape == shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_launch_compiles_for_hopper(dtype):
    pytest.importorskip("triton", reason="kernels need the package triton")
    x, factor = torch.zeros(2, 9, 128, dtype=dtype), torch.zeros(9, 28, dtype=dtype)
    call = lambda: module._launch(x, x, factor, factor, factor)  # noqa: E731
    ((_, compiled),) = compiled_launches(module, ["_low_rank_product_kernel"], call)
    assert "mma" in compiled.asm["ptx"] and compiled.asm["cubin"]
    assert compiled.metadata.shared <= 227 * 1024
