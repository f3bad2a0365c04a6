"""The separable convolution: definition, gradients, registration, dispatch, compiled launches, use by models."""

import copy
import importlib

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import blockzoo
from blockzoo.kernels._dispatch import kernels_as
from blockzoo.kernels._testing import compiled_launches
from blockzoo.kernels.separable_conv import separable_conv, separable_conv_op
from blockzoo.layers.conv.conv_norm_act import pad_same
from blockzoo.layers.conv.separable_conv import SeparableConv

module = importlib.import_module("blockzoo.kernels.separable_conv")


def arguments(dtype=torch.float32, shape=(2, 5, 7, 6), out_chans=4, window=3):
    chans = shape[1]
    return {
        "x": torch.randn(shape, dtype=dtype),
        "dw": torch.randn(chans, 1, window, window, dtype=dtype),
        "pw": torch.randn(out_chans, chans, 1, 1, dtype=dtype),
        "dw_bias": torch.randn(chans, dtype=dtype),
        "bias": torch.randn(out_chans, dtype=dtype),
    }


@pytest.mark.parametrize("mode", ["torch", "triton"])
@pytest.mark.parametrize(("window", "stride"), [(3, 1), (5, 2), (7, 2), (2, 2)])
def test_it_is_the_two_convolutions_behind_same_padding(mode, window, stride):
    for height, width in ((7, 6), (8, 3), (1, 1)):
        parts = arguments(shape=(2, 5, height, width), window=window)
        x = pad_same(F.relu(parts["x"]), [window] * 2, [stride] * 2)
        y = F.silu(F.conv2d(x, parts["dw"], parts["dw_bias"], stride, groups=5))
        y = F.relu(F.conv2d(y, parts["pw"], parts["bias"]))
        with kernels_as(mode):
            ours = separable_conv(**parts, stride=stride, act_in="relu", act_mid="silu", act_out="relu")
        torch.testing.assert_close(ours, y, rtol=1e-4, atol=1e-5)
        assert y.shape[2:] == (-(-height // stride), -(-width // stride))


@pytest.mark.parametrize("mode", ["torch", "triton"])
def test_skip_and_residual(mode):
    parts, residual = arguments(), torch.randn(2, 4, 7, 6)
    y = F.conv2d(F.silu(F.conv2d(parts["x"], parts["dw"], parts["dw_bias"], padding=1, groups=5)) + parts["x"],
                 parts["pw"], parts["bias"]) + residual  # fmt: skip
    with kernels_as(mode):
        ours = separable_conv(**parts, residual=residual, act_mid="silu", skip=True, padding=1)
    torch.testing.assert_close(ours, y, rtol=1e-4, atol=1e-5)


class Recorder(TorchDispatchMode):
    """Keeps the names of our operators."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "blockzoo":
            self.names.add(str(func))
        return func(*args, **(kwargs or {}))


def used(function):
    """Names of our operators that a call runs."""
    with Recorder() as recorder:
        recorder.names = set()
        function()
    return recorder.names


OURS = {"blockzoo.separable_conv.default"}


def test_gradients_are_those_of_the_reference():
    parts = arguments()
    with kernels_as("triton"):
        assert used(lambda: separable_conv(**parts)) == OURS
        parts["pw"].requires_grad_()
        assert used(lambda: separable_conv(**parts).sum().backward()) == set()
        assert float(parts["pw"].grad.abs().max()) > 0
        with torch.no_grad():
            assert used(lambda: separable_conv(**parts)) == OURS


def test_types_that_differ_are_left_to_torch():
    parts = arguments()
    parts["x"] = parts["x"].bfloat16()
    with kernels_as("triton"), pytest.raises(RuntimeError, match="type"):
        separable_conv(**parts)
    with kernels_as("triton"), torch.autocast("cpu", torch.bfloat16):
        assert separable_conv(**parts).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"act_mid": "gelu"}, "act_mid='gelu' must be one of none, relu, silu"),
        ({"padding": "valid"}, "padding='valid' must be 'same'"),
        ({"dw": torch.zeros(5, 1, 3, 5)}, "dw of shape"),
        ({"pw": torch.zeros(4, 6, 1, 1)}, r"pw of shape \(4, 6, 1, 1\) must be"),
        ({"stride": 2, "skip": True}, "skip=True needs a result of the size of x, not stride=2"),
        ({"residual": torch.zeros(2, 4, 7, 1)}, r"residual of shape \(2, 4, 7, 1\) must be \(2, 4, 7, 6\)"),
        ({"x": torch.zeros(1, 5, 2, 2), "padding": 0}, "x of 2 x 2 pixels is too small for a window of 3"),
    ],
)
def test_bad_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        separable_conv(**{**arguments(), **change})


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # opcheck reads it
def test_registration_is_sound():
    x, dw, pw, dw_bias, bias = arguments().values()
    rest = (2, 1, 1, 4, 3, "relu", "none", "silu", False)
    torch.library.opcheck(separable_conv_op, (x, dw, None, pw, bias, None, *rest))
    strided = x.contiguous(memory_format=torch.channels_last)
    residual = torch.randn(2, 4, 4, 3)
    torch.library.opcheck(separable_conv_op, (strided, dw, dw_bias, pw, None, residual, *rest))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_launch_compiles_for_hopper(dtype):
    pytest.importorskip("triton", reason="kernels need the package triton")
    x = torch.zeros(1, 84, 42, 42, dtype=dtype).contiguous(memory_format=torch.channels_last)
    dw, pw, bias = (torch.zeros(shape, dtype=dtype) for shape in ((84, 1, 7, 7), (168, 84, 1, 1), (168,)))
    rest = (2, 2, 2, 21, 21, "relu", "none", "relu", False)
    call = lambda: module._launch(x, dw, None, pw, bias, None, *rest)  # noqa: E731
    ((_, compiled),) = compiled_launches(module, ["_separable_conv_kernel"], call)
    assert "mma" in compiled.asm["ptx"] and compiled.asm["cubin"]
    assert compiled.metadata.shared <= 227 * 1024


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("act", [None, torch.nn.ReLU, torch.nn.SiLU, torch.nn.GELU])
@torch.no_grad()
def test_the_deployed_layer_gives_the_same_with_the_kernel(stride, act):
    layer = SeparableConv(5, 6, 5, stride, "same", act).eval()
    x = torch.randn(2, 5, 9, 8)
    expected, active = layer(x), layer(F.relu(x))
    layer.pw.fuse()
    with kernels_as("triton"):
        names = used(lambda: torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5))
        torch.testing.assert_close(layer(x, True), active, rtol=1e-4, atol=1e-5)
    assert names == (set() if act is torch.nn.GELU else OURS)
    torch.testing.assert_close(layer(x, True), active, rtol=1e-4, atol=1e-5)


EMO = {"depths": (1, 2), "embed_dims": (8, 16), "ratios": (2.0, 2.0), "head_dims": (8, 8), "kernel_sizes": (5, 3),
       "strides": (1, 2), "attn_stages": (False, True), "out_indices": (0, 1)}  # fmt: skip
MODELS = {
    "nasnet_cifar": ({"num_cells": 1, "width": 4}, (2, 3, 17, 14)),
    "nasnetamobile": ({"num_cells": 1, "width": 4}, (1, 3, 65, 51)),
    "emov2_cifar": (EMO, (2, 3, 16, 13)),
}


def small_model(name):
    model = blockzoo.create_model(name, num_classes=5, **MODELS[name][0]).eval()
    generator = torch.Generator().manual_seed(1)
    for key, value in model.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 2, generator=generator)
    return model, torch.randn(MODELS[name][1])


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_deployed_models_give_the_same_with_the_kernel(name):
    model, x = small_model(name)
    expected = model(x)
    merged = copy.deepcopy(model).deploy()
    tolerance = {"rtol": 0, "atol": 1e-4 * float(expected.std())}
    with kernels_as("triton"):
        assert used(lambda: model(x)) == set()
        assert used(lambda: torch.testing.assert_close(merged(x), expected, **tolerance)) == OURS


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
@torch.no_grad()
def test_a_deployed_model_compiles_in_one_graph_exports_and_scripts():
    model, x = small_model("emov2_cifar")
    expected = model.deploy()(x)
    with kernels_as("triton"):
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-5)
        program = torch.export.export(model, (x,))
        torch.testing.assert_close(torch.jit.script(model)(x), expected, rtol=1e-4, atol=1e-5)
    assert not any("blockzoo" in str(node.target) for node in program.graph.nodes)


@pytest.mark.parametrize("name", ["nasnet_cifar", "emov2_cifar"])
def test_deployed_models_train_with_the_kernel_asked_for(name):
    model, x = small_model(name)
    model.deploy()
    grads = []
    for mode in ("torch", "triton"):
        model.zero_grad()
        with kernels_as(mode):
            model(x).square().sum().backward()
        grads.append([p.grad for p in model.parameters() if p.grad is not None])
    for ours, reference in zip(*grads, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-3, atol=1e-4 * float(reference.abs().max()) + 1e-6)
