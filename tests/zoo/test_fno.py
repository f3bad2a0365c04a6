"""Fourier neural operators: parity with neuraloperator, and what neuraloperator cannot do."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F

import blockzoo
from blockzoo.layers.spectral.fourier import resample

OFFICIAL_NAMES = {"in_channels": "in_chans", "out_channels": "out_chans", "n_layers": "depth"}
EARLY_NAMES = {"use_mlp": "use_channel_mlp", "mlp_skip": "channel_mlp_skip"}

CASES = (
    "fno1d_dense fno2d_dense fno3d_dense tfno2d_cp tfno2d_factorized_impl tfno2d_tt tfno2d_tucker fno_cp2d "
    "fno_darcy_example fno_dense1d fno_dense2d fno_dense2d_nyquist fno_dense2d_rect fno_dense3d fno_domainpad2d "
    "fno_group_norm2d fno_no_channel_mlp2d fno_noembed2d fno_paper64_fullmodes fno_preact2d fno_separable2d "
    "fno_skips2d fno_tanh2d fno_tt2d_reconstructed fno_tucker1d fno_tucker2d_r10 fno_tucker2d_r42 "
    "fno_tucker2d_reconstructed fno_main_batch_norm fno_main_conv_bias3 fno_main_hires fno_main_instance_norm "
    "fno_main_max_modes fno_main_norm_groups fno_main_tt3d fno_v03_cp_padded fno_v03_joint_tt fno_v03_joint_tucker"
).split()

SMALL = {"n_modes": (6, 5), "hidden_channels": 6, "depth": 2, "in_chans": 2}
KINDS = {
    "dense": ("fno2d", {}),
    "tucker": ("tfno2d", {}),
    "cp": ("tfno2d", {"factorization": "cp"}),
    "tt": ("tfno2d", {"factorization": "tt", "rank": 0.3}),
    "joint": ("tfno2d", {"joint_factorization": True}),
    "padded": ("fno2d", {"domain_padding": [0.1, 0.2]}),
    "instance_norm": ("fno2d", {"norm": "instance_norm"}),
    "preactivation": ("fno2d", {"norm": "group_norm", "preactivation": True, "stabilizer": "tanh"}),
    "separable": ("fno2d", {"separable": True, "conv_bias_kernel": 3, "channel_mlp_skip": "linear"}),
    "multigrid": ("mg_tfno2d", {"global_coordinates": True}),
}


def build(case):
    """The model that neuraloperator's constructor arguments describe."""
    given = dict(case.meta["kwargs"])
    early = "0.3" in case.meta["reference"]
    if early:
        options = {"positional_embedding": None, "semantics": "0.3", "domain_padding_mode": "one-sided"}
        for part in ("lifting", "projection"):
            options[f"{part}_channel_ratio"] = given.pop(f"{part}_channels") / given["hidden_channels"]
        options |= {"use_channel_mlp": False}
    else:
        options = {}
    options |= {(OFFICIAL_NAMES | EARLY_NAMES).get(name, name): value for name, value in given.items()}
    kind = "tfno" if case.meta["cls"] == "TFNO" else "fno"
    if "mg" in case.meta:
        multigrid = {name: case.meta["mg"][name] for name in ("levels", "padding_fraction")}
        options |= multigrid | {"in_chans": options["in_chans"] // (multigrid["levels"] + 1)}
        kind = "mg_tfno"
    return blockzoo.create_model(f"{kind}{len(given['n_modes'])}d", **options).eval()


def loaded(case):
    model = build(case)
    official = {**case.state_dict(), "_metadata": {"_version": "0.1.0", "non_linearity": F.gelu}}
    model.load_state_dict(blockzoo.convert_state_dict(model, official), strict=True)
    return model


@pytest.mark.parametrize("name", [*CASES, "fno_mgtfno_l1"])
@torch.no_grad()
def test_outputs_equal_neuraloperators(golden, name):
    case = golden(name)
    model = loaded(case)
    x = case.image() if "mg" not in case.meta else case.image()[:, : model.in_chans]
    y = model(x)
    assert case.error("y", y) < 2e-5
    assert "n_params_real" not in case.meta or model.num_parameters_real == case.meta["n_params_real"]
    assert case.error("y", model.deploy()(x)) < 2e-5


@pytest.mark.parametrize("name", ["fno_dense2d_rect", "fno_tucker2d_r10", "fno_preact2d"])
@torch.no_grad()
def test_stages_equal_neuraloperators(golden, name):
    case = golden(name)
    model, found = loaded(case), {}

    def keep(name):
        return lambda _m, _i, y: found.__setitem__(name, y.movedim(-1, 1).clone())

    model.lifting.register_forward_hook(keep("lifting"))
    for i, block in enumerate(model.blocks):
        block.register_forward_hook(keep(f"block{i}"))
    model(case.image())
    for stage, value in found.items():
        assert case.error(stage, value) < 2e-5, stage


@pytest.mark.parametrize(
    "name", ["fno_dense1d", "fno_dense2d", "fno_dense3d", "fno_cp2d", "fno_tucker2d_r10", "fno_mgtfno_l1"]
)
def test_gradients_equal_neuraloperators(golden, golden_error, name):
    case = golden(name)
    model = loaded(case).double()
    x = case.image().double().requires_grad_()
    y = model(x)
    (y * case.noise("input:cotangent", y.shape)).sum().backward()
    assert case.error("grad_x", x.grad) < 2e-5
    gradients = {key: parameter.grad for key, parameter in model.named_parameters()}
    official = {key: value.zero_() for key, value in case.state_dict().items()}
    names = case.arrays["extra_grad_names"].tolist()
    for key, norm, probed in zip(names, case.arrays["extra_grad_norm"], case.arrays["extra_grad_probe"], strict=True):
        value = official[key]
        probe = case.noise(f"probe:{key}", (*value.shape, 2) if value.is_complex() else tuple(value.shape))
        probe = torch.view_as_complex(probe) if value.is_complex() else probe
        converted = blockzoo.convert_state_dict(model, {**official, key: probe})
        (ours,) = [name for name in gradients if converted[name].any()]
        found = torch.stack([gradients[ours].norm(), (gradients[ours] * converted[ours]).sum()])
        assert golden_error(found, [float(norm), float(probed)]) < 5e-5, key


def make(kind, **kwargs):
    name, options = KINDS[kind]
    return blockzoo.create_model(name, **{**SMALL, **options, **kwargs}).eval()


@pytest.fixture
def fresh_compiler():
    """Forgets what other tests compiled, so that none reaches the limit of recompilations."""
    torch._dynamo.reset()


@pytest.mark.parametrize("kind", ["dense", "tucker", "cp", "tt", "padded", "multigrid"])
@pytest.mark.usefixtures("fresh_compiler")
def test_compiles_in_one_graph(kind):
    model = make(kind, depth=1)
    x = torch.randn(2, 2, 16, 12)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["dense", "tucker", "tt", "padded", "instance_norm", "multigrid"])
def test_exports_with_dynamic_batch(kind):
    model = make(kind, depth=1)
    x = torch.randn(3, 2, 16, 12)
    shapes = {"x": {0: torch.export.Dim("batch", min=2, max=64)}}
    program = torch.export.export(model, (), {"x": x}, dynamic_shapes=shapes, strict=False)
    fresh = torch.randn(5, 2, 16, 12)
    torch.testing.assert_close(program.module()(x=fresh), model(fresh), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["tucker", "multigrid"])
def test_onnx_runtime_computes_the_same(kind, tmp_path):
    pytest.importorskip("onnxscript", reason="ONNX export needs the extra blockzoo[onnx]")
    runtime = pytest.importorskip("onnxruntime", reason="ONNX export needs the extra blockzoo[onnx]")
    model, file = make(kind, depth=1), str(tmp_path / "model.onnx")
    x = torch.randn(2, 2, 16, 12)
    torch.onnx.export(model, (x,), file, input_names=["x"], dynamo=True, verbose=False)
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    y = torch.from_numpy(session.run(None, {"x": x.numpy()})[0])
    torch.testing.assert_close(y, model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_training_has_the_eager_gradients():
    model = make("tucker", depth=1).double()
    x = torch.randn(2, 2, 16, 12, dtype=torch.double)
    model(x).square().mean().backward()
    eager = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    torch.compile(model, fullgraph=True, backend="aot_eager")(x).square().mean().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, eager[name], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("size", "batch"), [((8, 8), 1), ((16, 20), 3)])
def test_every_precision_and_size(kind, size, batch):
    model = make(kind)
    x = torch.randn(batch, 2, *size)
    y = model(x)
    assert y.shape == (batch, 1, *size)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(x)
    assert (mixed.float() - y).abs().max() < 0.2 * y.std() + 0.05
    torch.testing.assert_close(copy.deepcopy(model).double()(x.double()).float(), y, rtol=1e-3, atol=1e-4)
    low = copy.deepcopy(model).bfloat16()(x.bfloat16())
    assert low.dtype == torch.bfloat16 and (low.float() - y).abs().max() < 0.5 * y.std() + 0.1


@pytest.mark.parametrize("size", [(7, 9), (5, 16), (33, 4)])
def test_odd_and_small_grids(size):
    model = make("dense")
    assert model(torch.randn(1, 2, *size)).isfinite().all()


@pytest.mark.parametrize("options", [{"norm": "batch_norm"}, {"norm": "batch_norm", "patches_per_step": 1}], ids=str)
def test_checkpointing_counts_a_batch_once(options):
    plain = make("multigrid" if "patches_per_step" in options else "dense", **options).double().train()
    again = copy.deepcopy(plain)
    again.set_grad_checkpointing("patches_per_step" not in options)
    if "patches_per_step" in options:  # the comparison is with the same steps, whose activations are kept
        plain._map_patches = lambda patches: torch.cat([plain.patching.crop(plain._map(p)) for p in patches.split(1)])
    x = plain.example_inputs(2)["x"]
    for model in (plain, again):
        model(x).square().mean().backward()
    torch.testing.assert_close(dict(again.named_buffers()), dict(plain.named_buffers()), rtol=0, atol=0)
    assert int(again.blocks[0].norm1.batch.num_batches_tracked) == (8 if "patches_per_step" in options else 1)
    for own, other in zip(again.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-9, atol=1e-12)


EMPTY = [
    *[(kind, {}) for kind in KINDS],
    *[("dense", {"norm": norm}) for norm in ("instance_norm", "batch_norm", "group_norm")],
    *[("dense", {"backend": backend}) for backend in ("dft", "fft")],
    ("tucker", {"implementation": "factorized"}),
    ("dense", {"resolution_scaling_factor": 2.0}),
]


@pytest.mark.parametrize(("kind", "options"), EMPTY, ids=str)
@pytest.mark.parametrize("training", [False, True])
def test_an_empty_batch_has_an_empty_result(kind, options, training):
    model = make(kind, **options).train(training)
    y = model(model.example_inputs(0)["x"])
    assert y.shape == (0, *model(model.example_inputs(2)["x"]).shape[1:])
    y.abs().sum().backward()


def test_an_empty_batch_leaves_running_statistics_alone():
    model = make("dense", norm="batch_norm").train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model(model.example_inputs(0)["x"])
    torch.testing.assert_close(dict(model.named_buffers()), before, rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns_also_with_checkpointing(kind):
    model = make(kind).double().train()
    x = torch.randn(2, 2, 16, 12, dtype=torch.double)
    model(x).square().mean().backward()
    plain = {key: parameter.grad.clone() for key, parameter in model.named_parameters()}
    assert all(grad.abs().sum() > 0 for grad in plain.values())
    model.zero_grad()
    model.set_grad_checkpointing()
    model(x).square().mean().backward()
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, plain[key])


@pytest.mark.parametrize(
    ("kind", "options"), [*((kind, {}) for kind in KINDS), ("dense", {"resolution_scaling_factor": 1.5})]
)
def test_large_fields_in_pieces_have_the_same_outputs_and_gradients(kind, options, monkeypatch):
    model = make(kind, **options).double()
    x = torch.randn(2, 2, 16, 12, dtype=torch.double)
    results = []
    for piece in (2**40, 100):
        monkeypatch.setattr("blockzoo.layers.spectral.pointwise.PIECE", piece)
        with torch.no_grad():
            result = [model(x), model(x, output_size=(16, 12) if kind == "multigrid" else (11, 14))]
        model.zero_grad()
        model(x).square().mean().backward()
        results.append(result + [parameter.grad.clone() for parameter in model.parameters()])
    for ours, whole in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(ours, whole)


@pytest.mark.parametrize(
    ("kind", "ready"), [("dense", [True, True]), ("padded", [False, True]), ("instance_norm", [False, False])]
)
def test_large_fields_reach_a_block_with_their_coefficients(kind, ready, monkeypatch):
    monkeypatch.setattr("blockzoo.layers.spectral.pointwise.PIECE", 100)
    model, found, results = make(kind, depth=2), [], []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda _, given: found.append(given[3].ready is not None))
        block.register_forward_hook(lambda *given: results.append(given[2]))
    model(torch.randn(2, 2, 16, 12))
    assert found == ready
    assert all(isinstance(result, torch.Tensor) for result in results)


def test_gradients_of_gradients_flow_through_the_whole_model(monkeypatch):
    monkeypatch.setattr("blockzoo.layers.spectral.pointwise.PIECE", 16)
    model = blockzoo.create_model("tfno1d", n_modes=(4,), hidden_channels=3, depth=2, rank=0.5).double()
    x = torch.randn(1, 1, 9, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradgradcheck(model, x)


def test_a_joint_tensor_is_stored_once():
    model = make("joint")
    names = [name for name, _ in model.named_parameters() if "tensor" in name]
    assert names and all(name.startswith("shared_weight.") for name in names)
    storages = [value.data_ptr() for value in model.state_dict().values()]
    assert len(set(storages)) == len(storages)


@pytest.mark.parametrize("kind", KINDS)
def test_state_dicts_are_plain_and_survive_nesting(kind):
    model = make(kind)
    file = io.BytesIO()
    torch.save(torch.nn.Sequential(model).state_dict(), file)
    file.seek(0)
    nested = torch.nn.Sequential(make(kind)).eval()
    nested.load_state_dict(torch.load(file, weights_only=True))
    x = torch.randn(1, 2, 16, 12)
    assert torch.equal(nested(x), model(x))


@pytest.mark.parametrize("kind", KINDS)
def test_no_parameter_is_complex_and_fused_adamw_takes_a_step(kind):
    model = make(kind)
    assert not any(value.is_complex() for value in model.state_dict().values())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    x = torch.randn(2, 2, 16, 12)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = (model(x) - x[:, :1]).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(("old", "new"), [(8, 16), (9, 16), (9, 17), (12, 7)])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_linear_operator_is_the_same_on_every_grid(old, new, dims, waves):
    """By another input grid as by `output_size`: what neuraloperator's 2-D super-resolution gets wrong."""
    options = {"n_modes": (16,) * dims, "positional_embedding": None, "non_linearity": lambda x: x}
    model = blockzoo.create_model(f"fno{dims}d", **options, hidden_channels=3, depth=2, use_channel_mlp=False).double()
    coarse, fine = (waves((n,) * dims, 2).movedim(-1, 1) for n in (old, new))
    there = model(fine)
    torch.testing.assert_close(model(coarse, output_size=[new] * dims), there)
    torch.testing.assert_close(resampled(model(coarse), [new] * dims), there)
    if old * 2 == new:
        scaled = blockzoo.create_model(
            f"fno{dims}d",
            **options,
            hidden_channels=3,
            depth=2,
            use_channel_mlp=False,
            resolution_scaling_factor=[1, 2],
        ).double()
        scaled.load_state_dict(model.state_dict())
        torch.testing.assert_close(scaled(coarse), there)


def resampled(y, size):
    return resample(y.movedim(1, -1), size).movedim(-1, 1)


def test_doubled_resolution_changes_a_nonlinear_model_little(waves):
    model = blockzoo.create_model("fno2d", n_modes=(8, 8), hidden_channels=16, depth=3).double()
    coarse, fine = (waves((n, n), 2).movedim(-1, 1) for n in (32, 64))
    low, high = model(coarse), model(fine)
    assert (high[..., ::2, ::2] - low).norm() < 1e-2 * low.norm()


def test_resampled_fields_keep_the_values_they_have(golden):
    """Published resampling stretches 1-D and 2-D fields by a point and, in 3-D, moves negative frequencies."""
    case = golden("fno_resample")
    for name in ("up2d", "up3d"):
        shape, size = case.meta["cases"][name]
        x = noise_field(case, name, shape)
        y = resampled(x, size)
        every_second = (..., *[slice(None, None, 2)] * len(size))
        torch.testing.assert_close(y[every_second], x)
        assert case.error(name, y.float()) > 0.1


def noise_field(case, name, shape):
    coarse = case.noise(f"input:{name}", (*shape[:2], *[8] * (len(shape) - 2)))
    for axis, size in enumerate(shape[2:], start=2):
        coarse = coarse.index_select(axis, torch.arange(size) * 8 // size)
    return (coarse + case.noise(f"input:{name}:fine", shape)).double()


def test_adaptive_norms_take_an_embedding_for_all_or_for_each_sample():
    model = make("dense", norm="ada_in", embed_dim=5)
    x, embedding = torch.randn(3, 2, 16, 12), torch.randn(3, 5)
    each = model(x, embedding=embedding)
    alone = torch.cat([model(x[i : i + 1], embedding=embedding[i]) for i in range(3)])
    torch.testing.assert_close(each, alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(each[1:], model(x, embedding=embedding[0])[1:])
    with pytest.raises(ValueError, match="needs an embedding"):
        model(x)


def test_complex_fields():
    model = blockzoo.create_model("fno2d", **SMALL, complex_data=True).double()
    inputs = model.example_inputs(2)["x"]
    y = model(inputs)
    assert y.shape == (2, 1, 64, 64) and y.is_complex()
    shifted = blockzoo.create_model("fno2d", **SMALL, complex_data=True, positional_embedding=None).double()
    rolled = shifted(inputs.roll((3, 5), (2, 3)))
    torch.testing.assert_close(rolled, shifted(inputs).roll((3, 5), (2, 3)))
    with pytest.raises(ValueError, match="complex_data=True"):
        model(inputs.real)


@pytest.mark.parametrize("kind", ["dense", "tucker", "instance_norm"])
def test_the_operator_commutes_with_shifts_of_a_periodic_field(kind):
    model = make(kind, positional_embedding=None).double()
    x = torch.randn(1, 2, 15, 12, dtype=torch.double)
    torch.testing.assert_close(model(x.roll((4, 3), (2, 3))), model(x).roll((4, 3), (2, 3)))


def test_fewer_modes_can_be_used_and_raised_again():
    model = make("tucker", n_modes=(8, 8))
    x = torch.randn(1, 2, 16, 16)
    all_modes = model(x)
    model.set_n_modes((4, 6))
    assert not torch.allclose(model(x), all_modes)
    model.set_n_modes((8, 8))
    assert torch.equal(model(x), all_modes)
    stored = make("dense", n_modes=(4, 4), max_n_modes=(8, 8)).blocks[0].spectral.weight.tensor
    assert stored.shape == (8, 5, 6, 6)  # half of the last axis; neuraloperator stores all of it


@pytest.mark.parametrize(("rank", "dense"), [(0.02, False), (0.9, True)])
def test_deployed_models_keep_the_cheaper_form(rank, dense):
    model = make("tucker", rank=rank, hidden_channels=24)
    x = torch.randn(2, 2, 16, 12)
    before = model(x)
    torch.testing.assert_close(model.deploy()(x), before, rtol=1e-4, atol=1e-5)
    assert (model.blocks[0].spectral.weight.factorization == "dense") is dense
    torch.testing.assert_close(model.deploy()(x), before, rtol=1e-4, atol=1e-5)


def test_statistics_give_the_model_the_units_of_its_fields():
    model = make("dense")
    x = torch.randn(2, 2, 16, 12)
    plain = model(x)
    model.set_statistics(torch.tensor([1.0, -2.0]), torch.tensor([2.0, 5.0]), torch.tensor([3.0]), torch.tensor([4.0]))
    scaled = x * torch.tensor([2.0, 5.0])[:, None, None] + torch.tensor([1.0, -2.0])[:, None, None]
    torch.testing.assert_close(model(scaled), 4 * plain + 3, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"input_std=\[0.0, 1.0\] must be positive"):
        model.set_statistics(input_std=torch.tensor([0.0, 1.0]))


@pytest.mark.parametrize("kind", KINDS)
def test_the_usual_methods_of_a_backbone(kind):
    model = make(kind)
    x = model.example_inputs(2)["x"]
    features = model.forward_features(x)
    assert features.shape == (2, model.num_features, 64, 64)
    torch.testing.assert_close(model.forward_head(features), model(x), rtol=1e-4, atol=1e-5)
    assert model.pretrained_cfg["input_size"] == (2, 64, 64) and model.pretrained_cfg["input_axes"] == "CHW"


@pytest.mark.parametrize("options", [{}, {"boundary": "zeros"}, {"boundary": "reflect"}, {"lowpass": True}])
@pytest.mark.parametrize(("levels", "fraction"), [(0, 0.0), (1, 0.125), (2, [0.25, 0.0])])
def test_multigrid_models_map_whole_fields(levels, fraction, options):
    model = make("multigrid", levels=levels, padding_fraction=fraction, **options).double()
    x = torch.randn(2, 2, 16, 24, dtype=torch.double)
    y = model(x)
    assert y.shape == (2, 1, 16, 24)
    patches = model.patching.patch(x)
    assert patches.shape[1] == 2 * (levels + 1)
    model.patches_per_step = 3
    torch.testing.assert_close(model(x), y)


def test_random_patches_are_those_of_the_whole_prediction():
    model = make("multigrid", boundary="zeros", global_coordinates=True).double()
    x, target = (torch.randn(2, c, 16, 24, dtype=torch.double) for c in (2, 1))
    generator = torch.Generator().manual_seed(0)
    prediction, wanted = model.forward_random_patch(x, target, generator)
    assert prediction.shape == wanted.shape == (2, 1, 8, 12)
    start, _ = model.patching.random_patch(target, torch.Generator().manual_seed(0))
    assert torch.equal(wanted, target[:, :, start[0] : start[0] + 8, start[1] : start[1] + 12])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"n_modes": (4, 4, 4, 4)}, "n_modes=.* must have one to three numbers"),
        ({"norm": "layer"}, "norm='layer' must be None or one of"),
        ({"norm": "ada_in"}, "needs embed_dim"),
        ({"norm": "group_norm", "norm_groups": 4}, "norm_groups=4 must be positive and divide the 6 channels"),
        ({"fno_skip": "conv"}, "fno_skip='conv' must be one of 'linear'"),
        ({"stabilizer": "relu"}, "stabilizer='relu' must be one of"),
        ({"non_linearity": "swishy"}, "non_linearity='swishy' must be a function"),
        ({"domain_padding": [0.1]}, "domain_padding=.* must be one number or 2"),
        ({"factorization": "svd"}, "factorization='svd' must be 'dense' or"),
        ({"complex_data": True, "norm": "instance_norm"}, "norm='instance_norm' is not defined for complex_data"),
        ({"conv_bias_kernel": 2}, "kernel_size=2 must be odd"),
        ({"conv_bias_kernel": 3, "fno_skip": None}, "conv_bias_kernel=3 needs fno_skip='linear'"),
        ({"channel_mlp_expansion": 0.01}, "channel_mlp_expansion=0.01 .* leaves no hidden channel"),
        ({"max_n_modes": (4, 4)}, r"n_modes=\(6, 5\) must be from 1 to max_n_modes=\(4, 4\)"),
        ({"depth": 0}, "depth=0"),
        ({"semantics": "0.2"}, "semantics='0.2' must be '1.0' or"),
    ],
)
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make("dense", **kwargs)


def test_bad_inputs_are_named(golden):
    model = make("dense")
    with pytest.raises(ValueError, match=r"x of shape \(1, 3, 8, 8\) must be \(B, 2, \*size\) with 2 axes"):
        model(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="output_size=.* must have 2 numbers"):
        model(torch.zeros(1, 2, 8, 8), output_size=(8,))
    with pytest.raises(ValueError, match=r"divisible by 2 \*\* levels = 2"):
        make("multigrid")(torch.zeros(1, 2, 9, 8))
    with pytest.raises(ValueError, match="which no model of neuraloperator"):
        blockzoo.convert_state_dict(model, {"fno_blocks.nonsense": torch.zeros(1)})
    case = golden("fno_tucker2d_r10")
    kwargs = {"n_modes": (16, 16), "hidden_channels": 32, "rank": 0.2}
    with pytest.raises(ValueError, match="ranks of the state dict as a list"):
        blockzoo.convert_state_dict(blockzoo.create_model("tfno2d", **kwargs), case.state_dict())


@pytest.mark.parametrize("kind", ["dense", "multigrid"])
def test_fields_of_any_real_type_are_taken_in_the_type_of_the_parameters(kind):
    model = make(kind)
    x = torch.randn(2, 2, 8, 8) > 0
    expected = model(x.float())
    for dtype in (torch.bool, torch.double, torch.int64, torch.uint8):
        assert torch.equal(model(x.to(dtype)), expected)
