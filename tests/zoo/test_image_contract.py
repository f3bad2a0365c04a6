"""timm's contract for image models, checked for every one of ours."""

import copy
import pickle
import warnings

import pytest
import timm
import torch
from timm.layers import get_notrace_functions, get_notrace_modules
from timm.optim import param_groups_layer_decay
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

import blockzoo

TOKENS = blockzoo.list_models(family="raptor")  # models of tokens have tests of their own, tests/zoo/test_raptor.py
ALL = [name for name in blockzoo.list_models(modality="image") if name not in TOKENS]
SMALL = {"emov2_cifar": 32, "nasnet_cifar": 32, "nextvit_cifar": 32}
PUBLISHED = {"emov2_1m": 64, "nasnetamobile": 64, "nextvit_small": 64}
SIZES = {**SMALL, **PUBLISHED}
TINY = [*SMALL, "p3d_tiny", "raptor_cifar"]
"""A small model of every family of images and clips."""


def randomised(model):
    """Give norms and layer scales values that do something, so that outputs depend on everything."""
    generator = torch.Generator().manual_seed(3)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2, generator=generator)
        elif name.endswith("gamma"):
            value.uniform_(0.5, 1.5, generator=generator)
        elif value.ndim == 1 and value.is_floating_point():
            value.add_(0.1 * torch.randn(value.shape, generator=generator))
    return model


@pytest.fixture(params=SIZES)
def case(request):
    """A model in eval mode with weights that matter, and two images."""
    size = SIZES[request.param]
    return randomised(blockzoo.create_model(request.param)).eval(), torch.randn(2, 3, size, size)


@pytest.fixture(params=SMALL)
def small(request):
    """The same for the small models alone."""
    size = SMALL[request.param]
    return randomised(blockzoo.create_model(request.param)).eval(), torch.randn(2, 3, size, size)


def fully_grown(model):
    """Every parameter has a gradient of its own shape."""
    missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not missing
    return True


@pytest.mark.parametrize("name", blockzoo.list_models(modality="image", include_tags=True, exclude_filters="raptor*"))
def test_configuration_describes_the_model(name):
    cfg = blockzoo.get_pretrained_cfg(name)
    model = blockzoo.create_model(name, device="meta").eval()
    x = torch.empty(1, *cfg.input_size, device="meta")
    features = model.forward_features(x)
    assert features.shape[-1] == cfg.pool_size[-1] and features.shape[-2] == cfg.pool_size[-2]
    assert model.num_classes == cfg.num_classes > 0 and features.shape[1] == model.num_features
    assert model.forward_head(features, pre_logits=True).shape == (1, model.head_hidden_size)
    assert {f"{cfg.classifier}.weight", f"{cfg.first_conv}.weight"} <= set(model.state_dict())
    assert model(x).shape == (1, cfg.num_classes)
    assert blockzoo.create_model(name, num_classes=0, global_pool="", device="meta")(x).shape == features.shape
    assert list(model.example_inputs(2)["x"].shape) == [2, *cfg.input_size]


@pytest.mark.parametrize("name", ALL)
def test_construction_takes_device_dtype_channels_and_classes(name):
    model = blockzoo.create_model(name, in_chans=4, num_classes=3, device="meta", dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model(torch.empty(1, 4, 64, 64, device="meta", dtype=torch.bfloat16)).shape == (1, 3)


@pytest.mark.parametrize("name", blockzoo.list_models(modality=["image", "video"]))
@torch.no_grad()
def test_attributes_describe_the_built_model(name):
    """With other channels and with no classifier too; the sizes are those that timm's own tests compare."""
    model = blockzoo.create_model(name, in_chans=1, device="meta").eval()
    x = model.example_inputs()["x"]
    assert tuple(model.pretrained_cfg["input_size"]) == tuple(x.shape[1:]) and x.shape[1] == 1
    features = model.forward_features(x)
    axis = -1 if features.ndim == 3 else 1
    assert features.shape[axis] == model.num_features
    assert model.forward_head(features, pre_logits=True).shape[axis] == model.head_hidden_size
    assert blockzoo.create_model(name, num_classes=0, in_chans=1, device="meta")(x).shape == (1, model.num_features)
    model.reset_classifier(0)
    assert model(x).shape == (1, model.head_hidden_size)


@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_an_empty_batch_gives_no_logits(name):
    model = blockzoo.create_model(name)
    for training in (False, True):
        x = model.train(training).example_inputs(0)["x"]
        assert model(x).shape == (0, model.num_classes)
    assert all(buffer.isfinite().all() for buffer in model.buffers())


@pytest.mark.parametrize("name", TINY)
def test_torchvision_traces_without_help(name):
    """No tracer of timm's is needed to extract features by torch.fx."""
    model = blockzoo.create_model(name).eval()
    x = model.example_inputs(2)["x"]
    nodes, _ = get_graph_node_names(model, suppress_diff_warning=True)
    graph = create_feature_extractor(model, [nodes[-1]], suppress_diff_warning=True)
    with torch.no_grad():
        assert torch.equal(graph(x)[nodes[-1]], model(x))
    before = {name: buffer.clone() for name, buffer in graph.named_buffers()}
    graph.train()(x)[nodes[-1]].square().mean().backward()
    assert fully_grown(graph)
    still = [name for name, buffer in graph.named_buffers() if torch.equal(buffer, before[name])]
    assert not [name for name in still if "running" in name]


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.channels_last_3d])
@torch.no_grad()
def test_channels_last_fits_every_rank(name, memory_format):
    model = blockzoo.create_model(name).eval()
    x = model.example_inputs(1)["x"]
    expected = model(x)
    assert model.to(memory_format=memory_format) is model
    weights = [parameter for parameter in model.parameters() if parameter.ndim == 4 and parameter.shape[1] > 1]
    assert weights and all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    torch.testing.assert_close(model(x), expected, atol=1e-4, rtol=1e-4)
    assert model.to(torch.float64, memory_format=memory_format)(x.double()).dtype == torch.float64


@pytest.mark.parametrize("name", ALL)
def test_timm_finds_the_names_that_it_does_not_have(name):
    owner = timm.create_model(name, device="meta").__class__.__module__
    theirs = {"nextvit_small", "nextvit_base", "nextvit_large", "nasnetalarge"}
    assert owner.startswith("timm.models" if name in theirs else "blockzoo.")


@torch.no_grad()
def test_forward_is_head_of_features(case):
    model, x = case
    y = model(x)
    assert y.shape == (2, model.num_classes) and y.isfinite().all()
    assert torch.equal(model.forward_head(model.forward_features(x)), y)
    torch.testing.assert_close(model(x[:1]), y[:1], atol=1e-4 * float(y.std()), rtol=0)


def test_backward_reaches_every_parameter_also_with_checkpointing(case):
    model, x = copy.deepcopy(case[0]).train(), case[1]
    model.reset_classifier(42)
    grads = {}
    for enabled in (False, True):
        model.set_grad_checkpointing(enabled)
        model.zero_grad()
        torch.manual_seed(0)
        y = model(x)
        y.square().mean().backward()
        assert y.shape == (2, 42) and fully_grown(model)
        grads[enabled] = [parameter.grad.clone() for parameter in model.parameters()]
    for one, other in zip(grads[False], grads[True], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(one.abs().max()) + 1e-12)


@torch.no_grad()
def test_classifier_resets(case):
    model, x = copy.deepcopy(case[0]), case[1]
    features = model.forward_features(x)
    pooled = model.forward_head(features, pre_logits=True)
    model.reset_classifier(0)
    torch.testing.assert_close(model(x), pooled)
    model.reset_classifier(0, "")
    torch.testing.assert_close(model(x), features)
    model.reset_classifier(7, "avgmax")
    assert model(x).shape == (2, 7) and model.get_classifier().out_features == 7


@pytest.mark.parametrize("out_indices", [None, 2, (-1,), (0, 2)])
@pytest.mark.parametrize("feature_cls", [None, "getter"])
@pytest.mark.parametrize("name", SIZES)
@torch.no_grad()
def test_features_have_the_announced_sizes(name, feature_cls, out_indices):
    size = SIZES[name]
    kwargs = {"features_only": True, "out_indices": out_indices, "feature_cls": feature_cls}
    model = blockzoo.create_model(name, **kwargs).eval()
    outputs = model(torch.randn(1, 3, size, size - 3))
    assert len(outputs) == {None: len(outputs), 2: 2, (-1,): 1, (0, 2): 2}[out_indices] and len(outputs) > 0
    assert out_indices is not None or len(outputs) >= 3
    for y, chans, stride in zip(outputs, model.feature_info.channels(), model.feature_info.reduction(), strict=True):
        assert y.shape[1] == chans and abs(y.shape[2] - size / stride) <= 1


@torch.no_grad()
def test_intermediates_in_both_layouts(case):
    model, x = case
    final, levels = model.forward_intermediates(x)
    assert torch.equal(final, model.forward_features(x)) and len(levels) == len(model.feature_info)
    nhwc = model.forward_intermediates(x, output_fmt="NHWC", intermediates_only=True)
    for one, other in zip(levels, nhwc, strict=True):
        assert torch.equal(one, other.permute(0, 3, 1, 2))
    early = model.forward_intermediates(x, indices=[1], stop_early=True, intermediates_only=True)
    assert len(early) == 1 and torch.equal(early[0], levels[1])
    with pytest.raises(ValueError, match="output_fmt='NLC' must be 'NCHW' or 'NHWC'"):
        model.forward_intermediates(x, output_fmt="NLC")
    pruned = copy.deepcopy(model)
    assert list(pruned.prune_intermediate_layers([0, 1])) == [0, 1]
    cut = pruned.forward_intermediates(x, indices=[0, 1], intermediates_only=True)
    assert torch.equal(cut[1], levels[1])
    assert sum(p.numel() for p in pruned.parameters()) < sum(p.numel() for p in model.parameters())


class Last(torch.nn.Module):
    """The value of a dictionary with one entry."""

    def __init__(self, graph):
        super().__init__()
        self.graph = graph

    def forward(self, x):
        return list(self.graph(x).values())[0]


def traced(model):
    """The model's graph as timm traces it."""
    tracing = {"leaf_modules": list(get_notrace_modules()), "autowrap_functions": list(get_notrace_functions())}
    nodes, _ = get_graph_node_names(model, tracer_kwargs=tracing, suppress_diff_warning=True)
    return Last(create_feature_extractor(model, [nodes[-1]], tracer_kwargs=tracing, suppress_diff_warning=True))


def test_fx_graph_is_bit_equal_and_trains(case):
    model, x = copy.deepcopy(case[0]).eval(), case[1]
    graph = traced(model)
    with torch.no_grad():
        assert torch.equal(graph(x), model(x))
    graph.train()(x).square().mean().backward()
    assert fully_grown(graph)


@pytest.mark.parametrize("deployed", [False, True])
@torch.no_grad()
def test_scripts_compiles_and_exports_with_any_batch(small, deployed):
    model, x = copy.deepcopy(small[0]), small[1]
    expected = model(x)
    if deployed:
        model.deploy()
    close = {"atol": 1e-4 * float(expected.std()), "rtol": 0}
    torch.testing.assert_close(model(x), expected, **close)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; timm keeps it
        torch.testing.assert_close(torch.jit.script(model)(x), expected, **close)
        if not deployed:
            torch.testing.assert_close(torch.jit.script(traced(model))(x), expected, **close)
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(x), expected, **close)
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    torch.testing.assert_close(exported(x.repeat(2, 1, 1, 1))[2:], expected, **close)


@pytest.mark.parametrize("deployed", [False, True])
@torch.no_grad()
def test_onnx_runs_and_agrees(small, deployed, tmp_path):
    pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    model, x = copy.deepcopy(small[0]), small[1]
    expected = model(x)
    if deployed:
        model.deploy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter
        shapes = ({0: torch.export.Dim("batch")},)
        program = torch.onnx.export(model, (x,), dynamo=True, dynamic_shapes=shapes, verbose=False)
        program.save(tmp_path / "model.onnx")
        session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    found = torch.from_numpy(session.run(None, {name: x.repeat(2, 1, 1, 1).numpy()})[0])
    torch.testing.assert_close(found[:2], expected, atol=1e-3 * float(expected.std()), rtol=1e-3)


def test_compiled_training_reaches_every_parameter(small):
    model, x = copy.deepcopy(small[0]).train(), small[1]
    torch.compile(model, fullgraph=True, backend="aot_eager")(x).square().mean().backward()
    assert fully_grown(model)


@torch.no_grad()
def test_other_types_and_sizes(case):
    model, x = case
    double = copy.deepcopy(model).double()
    torch.testing.assert_close(double(x.double()).float(), model(x), atol=1e-3 * float(model(x).std()), rtol=1e-3)
    assert copy.deepcopy(model).bfloat16()(x.bfloat16()).isfinite().all()
    with torch.autocast("cpu", torch.bfloat16):
        assert model(x).isfinite().all()
    assert model(torch.randn(1, 3, 57, 43)).isfinite().all()


@torch.no_grad()
def test_copies_pickles_and_state_dicts_are_the_same_model(small):
    model, x = small
    expected = model(x)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), expected)
    fresh = type(model)
    again = blockzoo.create_model(model.pretrained_cfg["architecture"]).eval()
    assert isinstance(again, fresh)
    again.load_state_dict(blockzoo.convert_state_dict(again, model.state_dict()), strict=True)
    assert torch.equal(again(x), expected)


@pytest.mark.parametrize("name", ALL)
def test_layers_have_an_order_for_layer_decay(name):
    model = blockzoo.create_model(name, device="meta")
    groups = param_groups_layer_decay(model, layer_decay=0.5, verbose=False)
    scales = [group["lr_scale"] for group in groups]
    assert max(scales) == 1.0 and len(set(scales)) >= 5
    grouped = sum(len(group["params"]) for group in groups)
    assert grouped == len(list(model.parameters()))
