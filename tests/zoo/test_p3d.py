"""P3D: parity with the port and the Caffe network, any clip, deployment, inflation."""

import copy

import pytest
import timm
import torch

import blockzoo
from blockzoo import p3d
from blockzoo.layers.conv.conv_norm_act import set_conv_norm_mode
from blockzoo.p3d import inflate_resnet
from blockzoo.tasks.video.bench import PlainP3D

SMALL = {"depths": (2, 3, 2, 1), "widths": (8, 8, 16, 16), "stem_chans": 8, "num_classes": 5, "drop_rate": 0.0}


def small(**kwargs):
    """A P3D of 18 thousand parameters with every kind of block, whose norms are not fresh."""
    torch.manual_seed(0)
    model = blockzoo.create_model("p3d63", **{**SMALL, **kwargs}).eval()
    generator = torch.Generator().manual_seed(1)
    for name, value in model.state_dict().items():
        if name.endswith(("running_var", "norm.weight")):
            value.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith(("running_mean", "norm.bias")):
            value.normal_(0, 0.2, generator=generator)
    return model


def load_golden(case, model):
    """Load the case's official weights strictly but for the counters, which are not stored."""
    state_dict = blockzoo.convert_state_dict(model, case.state_dict())
    missing, unexpected = model.load_state_dict(state_dict, strict=False)
    assert not unexpected and all(name.endswith("num_batches_tracked") for name in missing)
    return model


def close(ours, theirs, tolerance=1e-5):
    return float((ours - theirs).abs().max() / theirs.std()) < tolerance


@pytest.mark.parametrize("name", ["p3d63", "p3d131", "p3d199"])
@torch.no_grad()
def test_golden_of_the_port(golden, name):
    case = golden(name)
    model = load_golden(case, blockzoo.create_model(name, num_classes=400).eval())
    assert sum(p.numel() for p in model.parameters()) == case.meta["n_params"]
    x = case.image()
    stem = model.stem(x)
    final, stages = model.forward_intermediates(x)
    assert case.error("stem", stem) < 2e-5
    for level, value in zip(("res2", "res3", "res4"), stages, strict=False):
        assert case.error(level, value) < 2e-5
    assert case.error("res5", final.squeeze(2)) < 2e-5
    assert case.error("logits", model.forward_head(final)) < 2e-5
    assert case.error("logits", model.deploy()(x)) < 2e-5


@torch.no_grad()
def test_golden_of_the_caffe_network(golden):
    case = golden("p3d_63_caffe_semantics")
    model = load_golden(case, blockzoo.create_model("p3d63", semantics="caffe").eval())
    x = case.image()
    final, stages = model.forward_intermediates(x)
    for i, value in enumerate(stages):
        assert case.error(f"layer{i + 1}", value.squeeze(2) if i == 3 else value) < 2e-5
    assert case.error("y", model.forward_head(final)) < 2e-5
    assert case.error("y", model.deploy()(x)) < 2e-5


@pytest.mark.parametrize("kwargs", [{}, {"st_struct": "AB"}, {"st_struct": "C", "in_chans": 2}, {"st_struct": "BCA"}])
@torch.no_grad()
def test_equals_3d_convolutions_where_the_port_is_right(kwargs):
    model = small(**kwargs)
    for shape in ((2, model.in_chans, 16, 40, 33), (1, model.in_chans, 24, 37, 50)):
        x = torch.randn(shape)
        assert close(model(x), PlainP3D(model).eval()(x))


@pytest.mark.parametrize("semantics", ["port", "caffe"])
@pytest.mark.parametrize(
    "shape", [(1, 32, 32), (4, 45, 31), (7, 33, 64), (8, 16, 16), (16, 97, 33), (35, 20, 9), (2, 1, 1)]
)
@torch.no_grad()
def test_any_clip_and_no_sample_sees_another(semantics, shape):
    model = small(semantics=semantics)
    x = torch.randn(3, 3, *shape)
    together = model(x)
    assert together.shape == (3, 5) and together.isfinite().all()
    for i in range(3):
        assert close(model(x[i : i + 1]), together[i : i + 1])
    x[1] = 100.0
    assert close(model(x)[::2], together[::2])
    assert close(copy.deepcopy(model).deploy()(x), model(x))


@torch.no_grad()
def test_frames_that_are_left_are_averaged():
    model = small()
    x = torch.randn(2, 3, 48, 33, 33)
    features = model.forward_features(x)
    assert features.shape[2] == 3
    alone = torch.stack([model.forward_head(features[:, :, i : i + 1], pre_logits=True) for i in range(3)])
    torch.testing.assert_close(model.forward_head(features, pre_logits=True), alone.mean(0))


@torch.no_grad()
def test_caffe_sizes_are_rounded_up():
    port, caffe = small(), small(semantics="caffe")
    x = torch.randn(1, 3, 13, 46, 46)
    assert [tuple(y.shape[2:]) for y in port.forward_intermediates(x)[1]] == [
        (6, 12, 12),
        (3, 6, 6),
        (1, 3, 3),
        (1, 2, 2),
    ]
    assert [tuple(y.shape[2:]) for y in caffe.forward_intermediates(x)[1]] == [
        (7, 11, 11),
        (4, 6, 6),
        (2, 3, 3),
        (1, 2, 2),
    ]


@pytest.mark.parametrize("kwargs", [{"semantics": "caffe", "mean_c": True}, {"se": "scse"}, {"late_stride": True}])
@torch.no_grad()
def test_deploy_and_float64(kwargs):
    model = small(**kwargs).double()
    x = torch.randn(2, 3, 9, 35, 41, dtype=torch.double)
    before = model(x)
    after = model.deploy()(x)
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())


@torch.no_grad()
def test_large_clips_go_through_the_first_stages_one_by_one(monkeypatch):
    model = small().deploy()
    x = torch.randn(5, 3, 9, 33, 20)
    wanted = model(x)
    seen = []
    model.stem.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    monkeypatch.setattr(p3d, "_PIXELS_AT_ONCE", 2 * 9 * 33 * 20)
    assert close(model(x), wanted)
    assert seen == [2, 2, 1]


@torch.no_grad()
def test_the_mean_in_blocks_c_is_a_factor_of_the_weights_behind():
    half, whole = small(semantics="caffe", mean_c=True), small(semantics="caffe")
    state = half.state_dict()
    for name, module in whole.named_modules():
        if getattr(module, "structure", "") == "C":
            state[f"{name.removesuffix('conv')}expand.layer.conv.weight"] /= 2
    whole.load_state_dict(state)
    x = torch.randn(2, 3, 8, 32, 32)
    assert close(small(semantics="caffe", mean_c=True)(x), whole(x))


def test_official_files_load_with_their_wrappers(tmp_path):
    model = blockzoo.create_model("p3d63")
    official = {"conv1_custom.weight": model.stem.conv.layer.conv.weight.detach()[:, :, None]}
    official |= {"layer1.0.conv3.weight": model.stages[0].blocks[0].conv.time.layer.conv.weight.detach()[..., None]}
    wrapped = {"state_dict": {f"module.{name}": value for name, value in official.items()}}
    converted = blockzoo.convert_state_dict(model, wrapped)
    assert set(converted) == {"stem.conv.layer.conv.weight", "stages.0.blocks.0.conv.time.layer.conv.weight"}
    assert all(converted[name].shape == model.state_dict()[name].shape for name in converted)
    ours = model.state_dict()
    assert blockzoo.convert_state_dict(model, ours).keys() == ours.keys()


@pytest.mark.parametrize("tag", ["kinetics_rgb", "kinetics_flow"])
def test_published_tags_use_the_semantics_that_they_were_trained_in(tag):
    model = blockzoo.create_model(f"p3d199.{tag}")
    pairs = [m for m in model.modules() if getattr(m, "structure", "") == "C"]
    assert len(pairs) == 15 and all(pair.late_act and pair.scale == 0.5 for pair in pairs)
    assert model.pretrained_cfg["input_size"] == ((2 if tag.endswith("flow") else 3), 16, 160, 160)


def resnet():
    model = timm.create_model("resnet50", num_classes=7).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


@torch.no_grad()
def test_inflated_resnet_sees_a_still_clip_as_the_image(tmp_path):
    source = resnet()
    x = torch.randn(2, 3, 65, 49)
    wanted = source(x)
    kwargs = {"num_classes": 7, "late_stride": True}
    model = inflate_resnet(blockzoo.create_model("p3d63", st_struct="A", **kwargs).eval(), source.state_dict())
    for steps in (1, 3, 8):
        assert close(model(x[:, :, None].expand(-1, -1, steps, -1, -1)), wanted)
    torch.save(source.state_dict(), tmp_path / "resnet50.pth")
    mixed = blockzoo.create_model("p3d63", checkpoint_path=tmp_path / "resnet50.pth", **kwargs).eval()
    assert close(mixed(x[:, :, None]), wanted, 1e-2)  # blocks B and C begin at 1e-4, see inflate_resnet


def test_inflation_trains_and_adapts_and_refuses():
    source = resnet().state_dict()
    flow = inflate_resnet(blockzoo.create_model("p3d63", in_chans=2, num_classes=3), source)
    assert flow.stem.conv.layer.conv.weight.shape[1] == 2
    set_conv_norm_mode(flow.train(), "eval")
    flow(torch.randn(1, 2, 4, 32, 32)).square().sum().backward()
    for block in flow.stages[0].blocks:
        assert block.conv.time.layer.norm.weight.grad.abs().max() > 0
    with pytest.raises(ValueError, match="does not fit"):
        inflate_resnet(blockzoo.create_model("p3d131"), timm.create_model("resnet26d").state_dict())


def test_tune_mode_has_the_gradients_of_eval_mode():
    model = small()
    x = torch.randn(2, 3, 8, 24, 24)
    grads = {}
    for mode in ("eval", "tune"):
        set_conv_norm_mode(model.train(), mode)
        model.zero_grad()
        model(x).square().sum().backward()
        grads[mode] = {name: p.grad.clone() for name, p in model.named_parameters()}
    for name, wanted in grads["eval"].items():
        assert close(grads["tune"][name], wanted, 1e-3) or torch.allclose(grads["tune"][name], wanted, atol=1e-4), name


def test_checkpointing_changes_no_gradient():
    x = torch.randn(2, 3, 8, 24, 24)
    grads = []
    for enable in (False, True):
        model = small(drop_path_rate=0.0)
        model.train().set_grad_checkpointing(enable)
        model(x).square().sum().backward()
        grads.append([p.grad for p in model.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_training_with_everything_on_and_autocast():
    model = small(drop_path_rate=0.5, se="cse", drop_rate=0.5).train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(torch.randn(4, 3, 8, 24, 24)).float().square().sum()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        x = torch.randn(2, 3, 8, 24, 24)
        deployed = small().deploy()
        assert close(deployed(x).float(), small()(x).float(), 0.1)


def test_timm_interface():
    model = small(num_classes=5)
    x = torch.randn(1, 3, 8, 32, 32)
    found = model.forward_intermediates(x, indices=[0, 2], intermediates_only=True, output_fmt="NHWC")
    assert [tuple(y.shape) for y in found] == [(1, 4, 8, 8, 32), (1, 1, 2, 2, 64)]
    features = blockzoo.create_model("p3d63", features_only=True, out_indices=(1, 3), **SMALL).eval()
    assert [tuple(y.shape[:2]) for y in features(x)] == [(1, 32), (1, 64)]
    assert features.feature_info.channels() == [32, 64] and features.feature_info.reduction() == [8, 32]
    model.reset_classifier(0)
    assert model(x).shape == (1, 64)
    model.reset_classifier(3, "max")
    assert model(x).shape == (1, 3)
    assert model.task == "classification" and model.modality == "video"
    assert model(**model.example_inputs(2)).shape == (2, 3)
    assert blockzoo.create_model("p3d_tiny").pretrained_cfg["input_axes"] == "CTHW"


@torch.no_grad()
def test_center_time_ignores_what_does_not_change():
    model = small(center_time=True)
    x = torch.randn(1, 3, 8, 24, 24)
    assert close(model(x + torch.randn(1, 3, 1, 24, 24)), model(x), 1e-4)


def test_errors_name_the_argument():
    for kwargs, message in (
        ({"st_struct": "ABX"}, "st_struct='ABX' must be made of"),
        ({"st_struct": ""}, "st_struct='' must be made of"),
        ({"semantics": "torch"}, "semantics='torch' must be"),
        ({"depths": (1, 1)}, "must be equally long"),
        ({"se": "gate"}, "se='gate' must be"),
    ):
        with pytest.raises(ValueError, match=message):
            small(**kwargs)
    with pytest.raises(ValueError, match="output_fmt='NCTHW' must be"):
        small().forward_intermediates(torch.randn(1, 3, 4, 16, 16), output_fmt="NCTHW")


@pytest.mark.slow
@torch.no_grad()
def test_compile_and_export():
    model = small(depths=(1, 1, 1, 1))
    x = torch.randn(2, 3, 8, 24, 24)
    wanted = model(x)
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=2, max=8)},))
    assert close(exported.module()(torch.cat([x, x]))[:2], wanted)
    for candidate in (model, copy.deepcopy(model).deploy()):
        assert close(torch.compile(candidate, fullgraph=True, backend="aot_eager")(x), wanted)


@torch.no_grad()
def test_onnx(tmp_path):
    pytest.importorskip("onnxscript", reason="needs the extra 'export'")
    runtime = pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
    model = small(depths=(1, 1, 1, 1)).deploy()
    x = torch.randn(1, 3, 8, 24, 24)
    path = str(tmp_path / "p3d.onnx")
    torch.onnx.export(model, (x,), path, dynamo=True, verbose=False)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert close(torch.from_numpy(y), model(x))
