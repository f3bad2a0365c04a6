"""Raptor: parity with the authors' code, any teacher, timm's interface, and exact merges."""

import copy
import fnmatch
import pickle
import warnings

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay

import blockzoo
from blockzoo.layers.attention.recurrent_block import DeployedRecurrentBlock, RecurrentBlock
from blockzoo.raptor import Raptor, equal_boundaries, teacher_trajectory

SMALL = {"img_size": 64, "embed_dim": 48, "depth": 4, "num_heads": 3}
TEACHERS = {
    "vit_tiny_patch16_224": SMALL,
    "deit_tiny_distilled_patch16_224": SMALL,
    "deit3_small_patch16_224": SMALL,
    "vit_base_patch16_siglip_224": SMALL,
    "vit_base_patch16_clip_224": {**SMALL, "num_classes": 7},
    "vit_small_patch14_reg4_dinov2": {**SMALL, "img_size": 56},
    "vit_medium_patch16_reg4_gap_256": SMALL,
}


def official(case, noise):
    """The case's state dict, with the values that `meta` or its notes override."""
    state_dict = case.state_dict()
    for name, value in state_dict.items():
        for pattern, scale in case.meta.get("overrides", [["*.t_proj.2.*", 0.05]]):
            if fnmatch.fnmatch(name, pattern):
                state_dict[name] = scale * torch.from_numpy(noise(name, tuple(value.shape)))
    return state_dict


def small(**kwargs):
    """A small Raptor whose parameters all matter."""
    args = {"embed_dim": 48, "num_heads": 3, "depth": 5, "boundaries": (2,), "img_size": 56, "init_values": 0.5}
    model = blockzoo.create_model("raptor", **{**args, "num_classes": 10, **kwargs}).eval()
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 or "t_proj.2" in name:
            parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("name", ["raptor2_tiny_gelu", "raptor2_vitb14", "raptor3_vitb14"])
@torch.no_grad()
def test_trajectory_of_tokens_matches_the_official_blocks(golden, noise, name):
    case = golden(name)
    args = case.meta["kwargs"]
    model = blockzoo.create_model(
        "raptor", embed_dim=args["dim"], num_heads=args["num_heads"], depth=args["depth"],
        boundaries=tuple(args["thresholds"]), mlp="swiglu" if args["swiglu"] else "gelu", depth_scale=True,
    ).eval()  # fmt: skip
    model.load_state_dict(blockzoo.convert_state_dict(model, official(case, noise)), strict=True)
    assert sum(p.numel() for p in model.blocks.parameters()) == case.meta["n_params"]
    tokens = torch.from_numpy(noise("input:x", tuple(case.meta["input_shape"])))
    runs = [model.forward_trajectory(tokens)]
    if name != "raptor3_vitb14":  # one merged model of base size is enough
        runs.append(model.deploy().forward_trajectory(tokens))
    for states in runs:
        assert len(states) == args["depth"] + 1 and torch.equal(states[0], tokens)
        for output in case.meta["outputs"]:
            assert case.error(output, states[int(output.removeprefix("layer"))]) < 2e-5


@pytest.mark.parametrize(("name", "deployed"), [("tiny_k2_swiglu", False), ("tiny_k2_swiglu", True), ("b14_k2", False)])
@torch.no_grad()
def test_whole_models_match_the_official_ones_at_every_size(golden, noise, name, deployed):
    case = golden(f"raptor_{name}")
    args, block = case.meta["kwargs"], case.meta["kwargs"]["block"]
    if name == "b14_k2":
        model = blockzoo.create_model("raptor2_vit_base_patch14_reg4_dinov2")
        assert sum(p.numel() for p in model.parameters()) == case.meta["n_params"] - 768 * 2  # mask, position of cls
    else:
        model = blockzoo.create_model(
            "raptor", embed_dim=block["dim"], num_heads=block["num_heads"], depth=args["depth"],
            boundaries=tuple(args["thresholds"]), mlp="swiglu" if block["swiglu"] else "gelu",
            depth_scale=block["t_scale"], init_values=block["init_values"], num_classes=args["num_classes"],
            img_size=args["dino"]["img_size"],
        )  # fmt: skip
    model.load_state_dict(blockzoo.convert_state_dict(model, official(case, noise)), strict=True)
    model.eval()
    if deployed:
        model.deploy()
    for i, shape in enumerate(case.meta["image_shapes"]):
        at = "" if i == 0 else f"{shape[2]}x{shape[3]}_"
        x = case_image(noise, shape)
        states = model.forward_trajectory(x)
        found = {f"layer{depth}": state for depth, state in enumerate(states)}
        found["normed"] = model.vit.norm(states[-1])
        found["logits"] = model.forward_head(found["normed"])
        checked = [key for key in found if f"{at}{key}" in case.meta["outputs"]]
        assert {"normed", "logits"} < set(checked)
        for key in checked:
            assert case.error(f"{at}{key}", found[key]) < 2e-5


def case_image(noise, shape):
    """A named image of the official sizes."""
    name = f"input:image{shape[2]}x{shape[3]}"
    coarse = torch.from_numpy(noise(name, (*shape[:2], 8, 8)))
    rows, columns = (torch.arange(size) * 8 // size for size in shape[2:])
    return coarse[:, :, rows][:, :, :, columns] + torch.from_numpy(noise(f"{name}:fine", tuple(shape)))


@pytest.mark.parametrize("mlp", ["swiglu", "gelu"])
@torch.no_grad()
def test_a_block_is_the_stated_formula_around_torch_attention(mlp):
    block = RecurrentBlock(24, 3, mlp, 2.0, init_values=0.5).double()
    for parameter in block.parameters():
        parameter.normal_(std=0.3)
    attention = torch.nn.MultiheadAttention(24, 3, batch_first=True).double()
    attention.load_state_dict(block.attn.state_dict())
    x = torch.randn(2, 7, 24, dtype=torch.double)
    s1, s2, s3 = (block.t_proj(torch.tensor([[4.0]], dtype=torch.double)) + 1).chunk(3, -1)
    y = block.norm1(x)
    z = x + s1 * block.ls1(attention(y, y, y)[0])
    expected = s3 * (z + s2 * block.ls2(block.mlp(block.norm2(z))))
    torch.testing.assert_close(block(x, 4), expected)
    assert block.norm1.eps == block.norm2.eps == 1e-5
    for first, last in ((1, 4), (4, 6)):
        merged = DeployedRecurrentBlock(block, first, last)
        torch.testing.assert_close(merged(x, 4), expected)
    both = block.apply_scaled(x, block.scales(torch.tensor([4.0, 9.0], dtype=torch.double)))
    torch.testing.assert_close(both, torch.cat([block(x[:1], 4), block(x[1:], 9)]))


@torch.no_grad()
def test_autonomous_blocks_do_not_know_the_depth():
    model = small(depth_scale=False, init_values=None, mlp="gelu", depth=4)
    assert not any(".t_proj" in name or ".ls1" in name for name in model.state_dict())
    x = torch.randn(1, 5, 48)
    torch.testing.assert_close(model.blocks[0](x, 1), model.blocks[0](x, 2))
    before = model.forward_trajectory(x)
    torch.testing.assert_close(model.deploy().forward_trajectory(x)[-1], before[-1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", TEACHERS)
@torch.no_grad()
def test_embedding_norm_and_head_are_the_teachers(name):
    kwargs = TEACHERS[name]
    teacher = timm.create_model(name, dynamic_img_size=True, **kwargs).eval()
    for parameter in teacher.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    model = blockzoo.create_model("raptor", teacher=name, teacher_kwargs=kwargs, blocks=3, init_values=0.3).eval()
    shell = {key: value for key, value in teacher.state_dict().items() if not key.startswith("blocks.")}
    model.vit.load_state_dict(shell, strict=True)
    cfg, x = timm.get_pretrained_cfg(name), torch.randn(2, 3, kwargs["img_size"], kwargs["img_size"])
    assert model.pretrained_cfg["mean"] == cfg.mean and model.pretrained_cfg["input_size"] == x.shape[1:]
    states = teacher_trajectory(teacher, x)
    torch.testing.assert_close(teacher.forward_head(teacher.norm(states[-1])), teacher(x))
    assert torch.equal(model.embed(x), states[0])
    assert torch.equal(model.forward_head(model.vit.norm(states[-1])), teacher(x))
    y = model(x)
    assert y.shape == teacher(x).shape and not torch.allclose(y, teacher(x))
    other = model(torch.randn(1, 3, 57, 43))
    assert other.shape == (1, *y.shape[1:]) and other.isfinite().all()
    torch.testing.assert_close(copy.deepcopy(model).deploy()(x), y, atol=1e-5 * float(y.std()) + 1e-6, rtol=1e-4)
    _, levels = model.forward_intermediates(x, indices=[1, 3])
    rows = kwargs["img_size"] // model.feature_info[0]["reduction"]
    assert [level.shape for level in levels] == [(2, 48, rows, rows)] * 2
    live = blockzoo.create_model("raptor", teacher=teacher, blocks=2, num_classes=3)
    assert live(x).shape == (2, 3) and len(teacher.blocks) == 4
    assert torch.equal(live.vit.patch_embed.proj.weight, teacher.patch_embed.proj.weight)


@torch.no_grad()
@pytest.mark.parametrize("asked", [{}, {"num_classes": 5}, {"num_classes": 0}, {"global_pool": "token_avg"}])
def test_classes_are_those_of_the_built_classifier(asked):
    teacher = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 3, "num_classes": 10}
    model = blockzoo.create_model("raptor", teacher="vit_tiny_patch16_224", teacher_kwargs=teacher, **asked).eval()
    wanted = asked.get("num_classes", 10)
    assert model.num_classes == model.pretrained_cfg["num_classes"] == wanted
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, wanted or 24)


def test_a_teachers_file_is_loaded(tmp_path):
    teacher = timm.create_model("vit_tiny_patch16_224", **SMALL)
    path = tmp_path / "teacher.pt"
    torch.save(teacher.state_dict(), path)
    model = blockzoo.create_model(
        "raptor", teacher="timm:vit_tiny_patch16_224", teacher_kwargs=SMALL, teacher_checkpoint=str(path)
    )
    assert torch.equal(model.vit.cls_token, teacher.cls_token)
    assert torch.equal(model.vit.head.weight, teacher.head.weight)


def test_sizes_are_the_published_ones():
    counts = {2: 18_981_952, 3: 28_472_928, 4: 37_963_904}
    bounds = {2: [0, 7, 12], 3: [0, 7, 10, 12], 4: [0, 4, 7, 10, 12]}
    for k, count in counts.items():
        for size, width in (("base", 768), ("small", 384)):
            model = blockzoo.create_model(f"raptor{k}_vit_{size}_patch14_reg4_dinov2", device="meta")
            assert model.bounds == bounds[k] and model.embed_dim == width and model.head.in_features == 2 * width
            found = sum(p.numel() for p in model.blocks.parameters())
            assert found == (count if size == "base" else k * 2_386_208)
    dd = {"device": "meta"}
    assert sum(p.numel() for p in RecurrentBlock(768, 12, "gelu", **dd).parameters()) == 7_128_608
    assert sum(p.numel() for p in RecurrentBlock(768, 12, "swiglu", 8 / 3, **dd).parameters()) == 7_129_632


def test_initial_values_make_a_block_nearly_the_identity():
    block = RecurrentBlock(32, 4)
    assert float(block.ls1.gamma.detach().mean()) == pytest.approx(1e-5) and not block.attn.in_proj_bias.any()
    assert block.t_proj[2].weight.std() < 2e-4
    x = torch.randn(1, 4, 32)
    torch.testing.assert_close(block(x, 3), x, rtol=1e-2, atol=1e-2)


def test_official_blocks_load_alone_and_keep_the_teachers_parts():
    source, model = small(), small()
    model.vit.cls_token.data.fill_(0.25)
    blocks = {name: value for name, value in source.state_dict().items() if name.startswith("blocks.")}
    model.load_state_dict(blockzoo.convert_state_dict(model, blocks), strict=True)
    assert torch.equal(model.blocks[1].mlp[0].weight, source.blocks[1].mlp[0].weight)
    assert bool((model.vit.cls_token == 0.25).all())
    single = small(boundaries=(), blocks=1)
    one = {name: value for name, value in source.blocks[1].state_dict().items()}
    single.load_state_dict(blockzoo.convert_state_dict(single, one), strict=True)
    assert torch.equal(single.blocks[0].attn.in_proj_weight, source.blocks[1].attn.in_proj_weight)
    with pytest.raises(ValueError, match="holds one block, the model has 2"):
        blockzoo.convert_state_dict(model, one)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"boundaries=\(3, 3\) must increase, from 1 to below the depth, 5"):
        small(boundaries=(3, 3))
    with pytest.raises(ValueError, match=r"blocks=3 needs 2 boundaries, boundaries=\(2,\)"):
        small(blocks=3)
    with pytest.raises(ValueError, match="blocks=6 must be from 1 to the depth, which is 5"):
        small(boundaries=None, blocks=6)
    with pytest.raises(ValueError, match="mlp='relu' must be 'swiglu' or 'gelu'"):
        small(mlp="relu")
    with pytest.raises(ValueError, match="num_heads=5 must divide dim=48"):
        small(num_heads=5)
    with pytest.raises(ValueError, match="depth=7 contradicts the teacher"):
        blockzoo.create_model("raptor", teacher="vit_tiny_patch16_224", teacher_kwargs=SMALL, depth=7)
    with pytest.raises(TypeError, match="is a ResNet, not a timm VisionTransformer"):
        blockzoo.create_model("raptor", teacher=timm.create_model("resnet10t"))
    with pytest.raises(ValueError, match="'token_avg' needs a teacher with a class token"):
        small(class_token=False, global_pool="token_avg")
    assert equal_boundaries(12, 1) == () and equal_boundaries(12, 4) == (3, 6, 9) and equal_boundaries(5, 2) == (3,)


@torch.no_grad()
def test_trajectory_of_images_ends_in_the_features_and_blocks_take_turns():
    model, x = small(), torch.randn(2, 3, 56, 56)
    states = model.forward_trajectory(x)
    assert torch.equal(model.vit.norm(states[-1]), model.forward_features(x))
    assert [model.block_of(depth) for depth in range(1, 6)] == [0, 0, 1, 1, 1]
    assert torch.equal(states[3], model.blocks[1](states[2], 3))
    pooled = torch.cat([model.forward_features(x)[:, 0], model.forward_features(x)[:, 5:].mean(1)], -1)
    torch.testing.assert_close(model(x), model.head(pooled))
    assert torch.equal(model.forward_head(model.forward_features(x), pre_logits=True), pooled)


@torch.no_grad()
def test_features_intermediates_and_pruning():
    model, x = small(), torch.randn(1, 3, 56, 70)
    states = model.forward_trajectory(x)
    final, levels = model.forward_intermediates(x)
    assert torch.equal(final, model.forward_features(x)) and len(levels) == 5
    assert torch.equal(levels[2].flatten(2).transpose(1, 2), states[3][:, 5:])
    pairs = model.forward_intermediates(x, 2, return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True)
    assert torch.equal(torch.cat(pairs[0][::-1], 1), states[4])
    normed = model.forward_intermediates(x, [4], norm=True, output_fmt="NLC", intermediates_only=True)
    assert torch.equal(normed[0], final[:, 5:])
    with pytest.raises(ValueError, match="output_fmt='NHWC' must be 'NCHW' or 'NLC'"):
        model.forward_intermediates(x, output_fmt="NHWC")
    pruned = copy.deepcopy(model)
    assert list(pruned.prune_intermediate_layers([0, 1], prune_norm=True)) == [0, 1]
    assert len(pruned.blocks) == 1
    cut = pruned.forward_intermediates(x, indices=[0, 1], stop_early=True, intermediates_only=True)
    assert torch.equal(cut[1], levels[1])
    features = blockzoo.create_model(
        "raptor", embed_dim=48, num_heads=3, depth=5, img_size=56, features_only=True, out_indices=(1, 4)
    )
    assert [y.shape for y in features(x)] == [(1, 48, 4, 5)] * 2
    assert features.feature_info.channels() == [48, 48] and features.feature_info.reduction() == [14, 14]


def test_classifiers_are_replaced_and_layers_ordered():
    model, x = small(), torch.randn(2, 3, 56, 56)
    for pool, width in ((None, 96), ("avg", 48), ("token", 48), ("token_avg", 96)):
        model.reset_classifier(4, pool)
        assert model(x).shape == (2, 4) and model.get_classifier().in_features == width == model.head_hidden_size
    model.reset_classifier(0)
    assert model(x).shape == (2, 96) and model.num_classes == 0
    model.reset_classifier(0, "")
    assert torch.equal(model(x), model.forward_features(x))
    fresh = small()
    scales = [group["lr_scale"] for group in param_groups_layer_decay(fresh, layer_decay=0.5, verbose=False)]
    assert len(set(scales)) == 4 and max(scales) == 1
    assert {name for name in fresh.no_weight_decay() if name in dict(fresh.named_parameters())} == {
        "vit.pos_embed", "vit.cls_token", "vit.reg_token",
    }  # fmt: skip


def test_gradients_reach_every_parameter_also_with_checkpointing():
    model, x = small().train(), torch.randn(2, 3, 56, 56)
    grads = []
    for enabled in (False, True):
        model.set_grad_checkpointing(enabled)
        model.zero_grad()
        model(x).square().mean().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        grads.append([parameter.grad.clone() for parameter in model.parameters()])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)
    double = RecurrentBlock(6, 2, "swiglu", 1.0, init_values=0.5).double()
    x = torch.randn(1, 3, 6, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: double(double(y, 1), 2), (x,))


@pytest.mark.parametrize("deployed", [False, True])
@torch.no_grad()
def test_scripts_compiles_and_exports_with_any_batch(deployed, tmp_path):
    model, x = small(), torch.randn(2, 3, 56, 56)
    expected = model(x)
    if deployed:
        assert model.deploy() is model and model.deploy() is model
    close = {"atol": 1e-4 * float(expected.std()), "rtol": 0}
    torch.testing.assert_close(model(x), expected, **close)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; timm keeps it
        torch.testing.assert_close(torch.jit.script(model)(x), expected, **close)
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(x), expected, **close)
    shapes = ({0: torch.export.Dim("batch")},)
    exported = torch.export.export(model, (x,), dynamic_shapes=shapes).module()
    torch.testing.assert_close(exported(x.repeat(2, 1, 1, 1))[2:], expected, **close)
    pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter
        program = torch.onnx.export(model, (x,), dynamo=True, dynamic_shapes=shapes, verbose=False)
        program.save(tmp_path / "model.onnx")
        session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    found = torch.from_numpy(session.run(None, {name: x.repeat(2, 1, 1, 1).numpy()})[0])
    torch.testing.assert_close(found[:2], expected, atol=1e-3 * float(expected.std()), rtol=1e-3)


@torch.no_grad()
def test_other_types_copies_and_pickles():
    model, x = small(), torch.randn(1, 3, 56, 56)
    expected = model(x)
    torch.testing.assert_close(copy.deepcopy(model).double()(x.double()).float(), expected, atol=1e-4, rtol=1e-3)
    assert copy.deepcopy(model).bfloat16()(x.bfloat16()).isfinite().all()
    with torch.autocast("cpu", torch.bfloat16):
        assert model.blocks[0].scales(torch.tensor([3.0])).dtype == torch.float32
        assert (model(x) - expected).abs().max() < 0.2 * expected.std()
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), expected)
    meta = blockzoo.create_model("raptor", in_chans=4, num_classes=3, device="meta", dtype=torch.bfloat16)
    assert meta(torch.empty(1, 4, 56, 56, device="meta", dtype=torch.bfloat16)).shape == (1, 3)
    assert {parameter.dtype for parameter in meta.parameters()} == {torch.bfloat16}


def test_names_are_registered_in_timm_too():
    names = blockzoo.list_models(family="raptor")
    assert len(names) == 8 and set(names) <= set(timm.list_models("raptor*"))
    model = timm.create_model("raptor", embed_dim=48, num_heads=3, depth=2, img_size=28, num_classes=2)
    assert isinstance(model, Raptor) and model(**model.example_inputs(1)).shape == (1, 2)
