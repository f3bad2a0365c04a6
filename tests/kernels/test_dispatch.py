"""The rule that chooses implementations, and the models under each choice."""

import os
import subprocess
import sys

import pytest
import torch

import blockzoo
from blockzoo.kernels import _dispatch
from blockzoo.kernels._dispatch import kernel_mode, kernels_as, launch_config, use_kernel
from blockzoo.kernels.residual_norm import residual_norm
from blockzoo.layers.attention.recurrent_block import DeployedRecurrentBlock, RecurrentBlock


def test_a_bad_value_is_named_and_triton_may_be_missing():
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch\nfrom blockzoo.kernels._dispatch import HAS_TRITON, kernel_mode, kernels_as\n"
        "from blockzoo.kernels.residual_norm import residual_norm_op\n"
        "residual_norm_op(torch.ones(2, 3), torch.ones(2, 3), None, None, None, None, 1e-5)\n"
        "print(HAS_TRITON)\n"
        "for call in (kernel_mode, kernels_as('triton').__enter__):\n"
        "    try: call()\n"
        "    except (ImportError, ValueError) as error: print(error)\n"
    )
    env = {**os.environ, "BLOCKZOO_KERNELS": "fast"}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", env=env)
    assert result.stdout.splitlines() == [
        "False",
        "BLOCKZOO_KERNELS='fast' must be one of auto, triton, torch",
        "BLOCKZOO_KERNELS='triton' needs the package triton, which is not installed",
    ], result.stderr


def test_cpu_tensors_stay_with_torch_unless_asked_otherwise():
    x = torch.zeros(2)
    with kernels_as("auto"):
        assert kernel_mode() == "auto" and not use_kernel("fold_conv", x)
    with kernels_as("torch"):
        assert not use_kernel("fold_conv", x)
    with kernels_as("triton"):
        assert use_kernel("fold_conv", x) and not use_kernel("fold_conv", x.double())
    with pytest.raises(ValueError, match="BLOCKZOO_KERNELS='on'"), kernels_as("on"):
        pass


def test_symbolic_traces_hold_torch_operators():
    def function(x):
        return residual_norm(x, x)[1]

    with kernels_as("triton"):
        graph = torch.fx.symbolic_trace(function).graph
    assert not any("blockzoo" in str(node.target) for node in graph.nodes)


def test_auto_takes_a_kernel_where_the_table_says_that_it_won(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Card")
    monkeypatch.setattr(_dispatch, "_tuned", {"Card": {"fold_conv": {"use": True}, "edge_product": {"use": False}}})

    class OnDevice:
        dtype, device = torch.float32, torch.device("cuda", 0)

    with kernels_as("auto"):
        names = ("fold_conv", "edge_product", "residual_norm")
        assert [use_kernel(name, OnDevice()) for name in names] == [_dispatch.HAS_TRITON, False, False]


def test_configurations_are_those_of_the_nearest_sizes(monkeypatch):
    table = [{"sizes": {"dim": 64}, "config": {"num_warps": 1}}, {"sizes": {"dim": 1024}, "config": {"num_warps": 8}}]
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Card")
    monkeypatch.setattr(_dispatch, "_tuned", {"Card": {"residual_norm": {"configs": table}}})

    class OnDevice:
        device = torch.device("cuda", 0)

    chosen = [launch_config("residual_norm", OnDevice(), {"dim": d}, {"num_warps": 4})["num_warps"] for d in (50, 768)]
    assert chosen == [1, 8]
    assert launch_config("residual_norm", torch.zeros(1), {"dim": 64}, {"num_warps": 4}) == {"num_warps": 4}


MODELS = {
    "timesnet_forecast": {"seq_len": 24, "pred_len": 8, "d_model": 8, "d_ff": 8, "num_kernels": 2, "top_k": 2},
    "tdn": {"l_max": 1, "hidden_channels": 8, "depth": 1, "radial_hidden": 8, "num_heads": 2},
}


@pytest.mark.parametrize("depth_scale", [True, False])
@pytest.mark.parametrize("init_values", [0.1, None])
def test_recurrent_blocks_give_the_same_with_operators(depth_scale, init_values):
    block = RecurrentBlock(8, 2, depth_scale=depth_scale, init_values=init_values)
    x = torch.randn(2, 5, 8)
    results = []
    for mode in ("torch", "triton"):
        with kernels_as(mode):
            block.zero_grad()
            y = block(x, 2)
            y.square().sum().backward()
            deployed = DeployedRecurrentBlock(block, 1, 3)(x, 2)
            results.append([y, deployed, *(p.grad.clone() for p in block.parameters() if p.grad is not None)])
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_models_give_the_same_with_operators_and_train(name):
    model = blockzoo.create_model(name, **MODELS[name]).eval()
    inputs = model.example_inputs(2, torch.Generator().manual_seed(0))
    results = []
    for mode in ("torch", "triton"):
        model.zero_grad()
        with kernels_as(mode):
            out = model(**inputs)
            parts = list(out.values()) if isinstance(out, dict) else [out]
            sum(part.square().sum() for part in parts).backward()
        results.append([*parts, *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("mode", ["torch", "triton"])
def test_models_compile_in_one_graph_and_export(mode):
    model = blockzoo.create_model("timesnet_forecast", **MODELS["timesnet_forecast"]).eval()
    inputs = model.example_inputs(2)
    with kernels_as(mode), torch.no_grad():
        expected = model(**inputs)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(**inputs), expected, rtol=1e-4, atol=1e-5)
        program = torch.export.export(model, (), inputs)
    assert not any("blockzoo" in str(node.target) for node in program.graph.nodes)
