"""The operator of the residual norm: derivatives, registration, dispatch, compiled launches."""

import importlib

import pytest
import torch
import torch.nn.functional as F

from blockzoo.kernels._dispatch import kernels_as
from blockzoo.kernels._testing import compiled_launches
from blockzoo.kernels.residual_norm import residual_norm, residual_norm_op

module = importlib.import_module("blockzoo.kernels.residual_norm")

KEEP = torch.tensor([0.0, 1.25])


def arguments(dtype=torch.float64):
    x, y = (torch.randn(2, 3, 4, dtype=dtype, requires_grad=True) for _ in range(2))
    scale, weight, bias = (torch.randn(4, dtype=dtype, requires_grad=True) for _ in range(3))
    return x, y, scale, KEEP.to(dtype), weight, bias


def test_it_is_the_sum_and_its_norm():
    x, y, scale, keep, weight, bias = arguments()
    z, out = residual_norm(x, y, scale, keep, weight, bias)
    torch.testing.assert_close(z[0], x[0])
    torch.testing.assert_close(z[1], x[1] + 1.25 * scale * y[1])
    torch.testing.assert_close(out, F.layer_norm(z, (4,), weight, bias))
    plain = residual_norm(x, y, eps=1e-3)
    torch.testing.assert_close(plain, (x + y, F.layer_norm(x + y, (4,), eps=1e-3)))


@pytest.mark.parametrize("parts", [(1, 1, 1, 1), (0, 0, 0, 0), (1, 0, 0, 1)], ids=str)
def test_gradient(parts):
    x, y, *optional = arguments()
    scale, keep, weight, bias = (part if on else None for part, on in zip(optional, parts, strict=True))
    leaves = [x, y, *(part for part in (scale, weight, bias) if part is not None)]

    def function(*_):
        return residual_norm_op(x, y, scale, keep, weight, bias, 1e-5)[:2]

    assert torch.autograd.gradcheck(function, leaves)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # opcheck reads it
def test_registration_is_sound():
    torch.library.opcheck(residual_norm_op, (*arguments(torch.float32), 1e-5), atol=1e-4, rtol=1e-4)
    x, y, *_ = arguments(torch.float32)
    torch.library.opcheck(residual_norm_op, (x, y, None, None, None, None, 1e-5), atol=1e-4, rtol=1e-4)


def test_second_derivatives_of_the_kernel_are_refused():
    x, y, *_ = arguments()
    z, out, _, _ = residual_norm_op(x, y, None, None, None, None, 1e-5)
    (grad,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="residual_norm_backward"):
        grad.sum().backward()


@pytest.mark.parametrize("mode", ["auto", "torch", "triton"])
def test_any_dispatch_compiles_exports_and_differentiates(mode):
    class Layer(torch.nn.Module):
        def forward(self, *args):
            return residual_norm(*args)

    args = arguments(torch.float32)
    expected = Layer()(*(tensor.double() for tensor in args))
    with kernels_as(mode):
        compiled = torch.compile(Layer(), fullgraph=True, backend="aot_eager")
        for result in (Layer()(*args), compiled(*args)):
            torch.testing.assert_close([t.double() for t in result], list(expected), rtol=1e-5, atol=1e-5)
        (grad,) = torch.autograd.grad(compiled(*args)[1].sin().sum(), args[2])
        (wide,) = torch.autograd.grad(expected[1].sin().sum(), args[2], retain_graph=True)
        torch.testing.assert_close(grad, wide, rtol=1e-4, atol=1e-5)
        program = torch.export.export(Layer(), args)
    assert not any("blockzoo" in str(node.target) for node in program.graph.nodes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_launches_compile_for_hopper(dtype):
    pytest.importorskip("triton", reason="kernels need the package triton")
    x, gain, keep = torch.zeros(2, 3, 768, dtype=dtype), torch.zeros(768, dtype=dtype), torch.zeros(2)

    def call():
        _, _, mean, rstd = module._launch(x, x, gain, keep, gain, gain, 1e-5)
        module._launch_backward(x, x, x, x, gain, keep, gain, True, mean, rstd)

    names = ["_residual_norm_kernel", "_residual_norm_backward_kernel"]
    compiled = compiled_launches(module, names, call)
    assert [name for name, _ in compiled] == names
    assert all(one.asm["cubin"] and one.metadata.shared <= 227 * 1024 for _, one in compiled)
