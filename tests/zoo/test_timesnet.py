"""TimesNet: parity with the original, and what the original lacks."""

import pytest
import torch

import blockzoo

NAMES = ("timesnet_forecast", "timesnet_imputation", "timesnet_anomaly", "timesnet_classifier")
SMALL = {"d_model": 8, "d_ff": 6, "num_kernels": 3}
CASES = (
    "anomaly_msl anomaly_smd classification_japanesevowels classify_jv forecast_etth1 forecast_weather "
    "imputation_etth1 imputation_ettm1 long_etth1_96_96_periodic long_ili_36_24 m4_monthly short_m4_monthly"
).split()


def build(kwargs):
    """The model that the official constructor arguments describe."""
    same = {"seq_len": "seq_len", "in_chans": "enc_in", "d_model": "d_model", "d_ff": "d_ff", "depth": "e_layers"}
    same |= {"top_k": "top_k", "num_kernels": "num_kernels"}
    extra = {
        "long_term_forecast": {"pred_len": "pred_len", "time_freq": "freq"},
        "short_term_forecast": {"pred_len": "pred_len", "time_freq": "freq"},
        "imputation": {"time_freq": "freq"},
        "anomaly_detection": {},
        "classification": {"num_classes": "num_class"},
    }[kwargs["task_name"]]
    kind = {"anomaly_detection": "anomaly", "classification": "classifier", "imputation": "imputation"}
    name = f"timesnet_{kind.get(kwargs['task_name'], 'forecast')}"
    return blockzoo.create_model(name, **{ours: kwargs[theirs] for ours, theirs in (same | extra).items()})


def golden_inputs(model, case, samples=None):
    names = {"forecast": ("x", "time_features"), "imputation": ("x", "mask", "time_features")}
    wanted = names.get(model.task, ("x", "mask") if model.task == "classification" else ("x",))
    mark = case.array("extra_mark", "extra_x_mark_enc")
    found = {"x": case.array("extra_x", "extra_x_enc"), "time_features": mark}
    found["mask"] = mark if model.task == "classification" else case.array("extra_mask")
    return {name: found[name][:samples] for name in wanted if found[name] is not None}


@pytest.mark.parametrize("deployed", [False, True])
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_outputs_equal_the_official_code(golden, name, deployed):
    case = golden(f"timesnet_{name}")
    model = build(case.meta["kwargs"]).eval()
    model.load_state_dict(blockzoo.convert_state_dict(model, case.state_dict()), strict=True)
    if deployed:
        model.deploy()
    assert case.error("y", model(**golden_inputs(model, case))) < 2e-5
    if "out_y_sample0_alone" in case.arrays:
        assert case.error("y_sample0_alone", model(**golden_inputs(model, case, 1))) < 2e-5


@pytest.mark.parametrize("scope", ["batch", "sample"])
@pytest.mark.parametrize("name", NAMES)
def test_deployed_equals_unmerged_and_is_loadable(name, scope):
    model = blockzoo.create_model(name, period_scope=scope, **SMALL).double().eval()
    inputs = model.example_inputs(3)
    before = model(**inputs)
    assert len(model.deploy().state_dict()) < len(blockzoo.create_model(name, **SMALL).state_dict())
    torch.testing.assert_close(model(**inputs), before, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(model.deploy()(**inputs), before, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("scope", ["batch", "sample"])
@pytest.mark.parametrize("name", NAMES)
def test_compiles_in_one_graph_and_exports_with_dynamic_batch(name, scope):
    model = blockzoo.create_model(name, period_scope=scope, **SMALL).eval()
    inputs = model.example_inputs(3)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(**inputs), model(**inputs), rtol=1e-4, atol=1e-5)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(model, (), inputs, dynamic_shapes={key: {0: batch} for key in inputs})
    fresh = model.example_inputs(5)
    torch.testing.assert_close(program.module()(**fresh), model(**fresh), rtol=1e-4, atol=1e-5)


def test_compiled_training_has_the_eager_gradients():
    model = blockzoo.create_model("timesnet_classifier", drop_rate=0.0, **SMALL).double()
    inputs = model.example_inputs(4)
    model(**inputs).square().mean().backward()
    eager = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    torch.compile(model, fullgraph=True, backend="aot_eager")(**inputs).square().mean().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, eager[name], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_ignores_its_batch_companions_with_periods_per_sample(name):
    model = blockzoo.create_model(name, period_scope="sample", **SMALL).double().eval()
    inputs = model.example_inputs(5)
    together = model(**inputs)
    alone = torch.cat([model(**{key: value[i : i + 1] for key, value in inputs.items()}) for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-12)


def test_batch_periods_equal_sample_periods_for_a_batch_of_one():
    pair = [blockzoo.create_model("timesnet_anomaly", period_scope=s, **SMALL).eval() for s in ("batch", "sample")]
    pair[1].load_state_dict(pair[0].state_dict())
    x = pair[0].example_inputs()["x"]
    torch.testing.assert_close(pair[0](x), pair[1](x))


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_learns_also_with_checkpointing(name):
    model = blockzoo.create_model(name, drop_rate=0.0, **SMALL).double().train()
    inputs = model.example_inputs(2)
    model(**inputs).square().mean().backward()
    plain = {key: parameter.grad.clone() for key, parameter in model.named_parameters()}
    assert all(grad.abs().sum() > 0 for grad in plain.values())
    model.zero_grad()
    model.set_grad_checkpointing()
    model(**inputs).square().mean().backward()
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, plain[key])


@pytest.mark.parametrize(("seq_len", "batch"), [(7, 1), (30, 3), (97, 1), (97, 3)])
def test_odd_lengths_and_widths_run_in_every_precision(seq_len, batch):
    model = blockzoo.create_model("timesnet_forecast", seq_len=seq_len, pred_len=5, d_model=5, d_ff=3, in_chans=3)
    inputs = model.example_inputs(batch)
    assert model(**inputs).shape == (batch, 5, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(**inputs).isfinite().all()
    assert model.double()(**model.example_inputs(batch)).dtype == torch.float64
    half = model.bfloat16()
    assert half(**half.example_inputs(batch)).dtype == torch.bfloat16


def test_imputation_ignores_what_stands_at_missing_places():
    model = blockzoo.create_model("timesnet_imputation", **SMALL).eval()
    inputs = model.example_inputs(2)
    expected = model(**inputs)
    inputs["x"] = torch.where(inputs["mask"] == 0, torch.full_like(inputs["x"], torch.nan), inputs["x"])
    torch.testing.assert_close(model(**inputs), expected)
    inputs["mask"][0, :, 1] = 0  # a channel that was never observed
    assert model(**inputs).isfinite().all()


def test_forecast_follows_shift_and_scale_of_its_input():
    model = blockzoo.create_model("timesnet_forecast", time_freq=None, **SMALL).double().eval()
    x = 100 * model.example_inputs(2)["x"]
    torch.testing.assert_close(model(3 * x + 7), 3 * model(x) + 7, rtol=1e-5, atol=1e-5)


def test_constant_series_have_finite_output():
    model = blockzoo.create_model("timesnet_anomaly", **SMALL).eval()
    assert model(torch.ones(2, 100, 38)).isfinite().all()


def test_padding_does_not_reach_the_classifier():
    model = blockzoo.create_model("timesnet_classifier", **SMALL).eval()
    inputs = model.example_inputs(3)
    tokens = model.forward_features(inputs["x"])
    expected = model.forward_head(tokens, mask=inputs["mask"])
    torch.testing.assert_close(expected, model(**inputs))
    changed = torch.where(inputs["mask"][..., None] == 0, 9.0, tokens)
    torch.testing.assert_close(model.forward_head(changed, mask=inputs["mask"]), expected)


def test_the_usual_methods_of_a_backbone():
    model = blockzoo.create_model("timesnet_classifier", depth=3, **SMALL).eval()
    x = model.example_inputs(2)["x"]
    final, maps = model.forward_intermediates(x, indices=2)
    torch.testing.assert_close(final, model.forward_features(x))
    assert [tuple(m.shape) for m in maps] == [(2, 29, 8)] * 2
    features = blockzoo.create_model("timesnet_classifier", depth=3, features_only=True, out_indices=(0, 1), **SMALL)
    assert [m.shape[-1] for m in features.eval()(x)] == features.feature_info.channels() == [8, 8]
    model.reset_classifier(4)
    assert model(x).shape == (2, 4) and model.num_classes == 4
    model.reset_classifier(0)
    assert model(x).shape == (2, model.head_hidden_size) == model.forward_head(final, pre_logits=True).shape
    assert model.pretrained_cfg["input_size"] == (29, 12) and model.pretrained_cfg["input_axes"] == "TC"
    assert (
        model.state_dict().keys()
        == blockzoo.create_model("timesnet_classifier", depth=3, num_classes=0, device="meta", **SMALL)
        .state_dict()
        .keys()
    )


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"top_k": 97}, "top_k=97 must be from 1 to 96"),
        ({"seq_len": 0}, "seq_len=0 must be at least 1"),
        ({"pred_len": 0}, "pred_len=0 must be at least 1"),
        ({"time_freq": "y"}, "time_freq='y' must be one of m, w, d, h, t, s"),
        ({"period_scope": "all"}, "period_scope='all' must be 'batch' or 'sample'"),
        ({"num_kernels": 0}, "num_kernels=0 must be at least 1"),
    ],
)
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        blockzoo.create_model("timesnet_forecast", **kwargs)


def test_bad_shapes_are_named():
    model = blockzoo.create_model("timesnet_imputation", **SMALL)
    with pytest.raises(ValueError, match=r"x has shape \(2, 95, 7\), expected \(batch, seq_len=96, in_chans=7\)"):
        model(torch.zeros(2, 95, 7))
    with pytest.raises(ValueError, match="mask has shape"):
        model(torch.zeros(2, 96, 7), mask=torch.ones(2, 96))
    with pytest.raises(ValueError, match=r"time_features has shape \(2, 96, 3\), expected \(2, 96, 4\)"):
        model(torch.zeros(2, 96, 7), time_features=torch.ones(2, 96, 3))


@pytest.mark.parametrize("name", ["timesnet_forecast", "timesnet_anomaly"])
def test_missing_values_are_ignored_and_a_full_mask_changes_nothing(name):
    model = blockzoo.create_model(name, seq_len=48, in_chans=3, d_model=8, d_ff=8, num_kernels=2).eval()
    x, mask = torch.randn(2, 48, 3), (torch.rand(2, 48, 3) > 0.2).float()
    mask[0, :, 1] = 0  # nothing of a channel is observed
    garbage = torch.where(mask > 0, x, 1e4)
    torch.testing.assert_close(model(x, mask=mask), model(garbage, mask=mask), rtol=0, atol=0)
    assert model(x, mask=mask).isfinite().all() and not torch.equal(model(x, mask=mask), model(x))
    torch.testing.assert_close(model(x, mask=torch.ones_like(x)), model(x))
    with pytest.raises(ValueError, match="mask has shape"):
        model(x, mask=mask[..., 0])


@pytest.mark.parametrize("name", blockzoo.list_models(family="timesnet"))
def test_an_empty_batch_is_refused_in_one_line(name):
    model = blockzoo.create_model(name).eval()
    with pytest.raises(ValueError, match=r"^x has shape \(0, .*: the batch is empty, give at least one series$"):
        model(**model.example_inputs(0))


def _with_covariates(**kwargs):
    torch.manual_seed(0)
    small = {"seq_len": 12, "pred_len": 4, "in_chans": 2, "d_model": 8, "d_ff": 8, "depth": 1, "num_kernels": 2}
    return blockzoo.create_model("timesnet_forecast", **small, top_k=2, time_freq=None, **kwargs).eval()


def test_covariates_join_the_embedding_and_nothing_else_changes():
    plain, model = _with_covariates(), _with_covariates(num_known=3, num_static=2)
    assert set(model.state_dict()) - set(plain.state_dict()) == {"known.weight", "static.weight"}
    model.load_state_dict({**model.state_dict(), **plain.state_dict()})
    inputs = model.example_inputs(2)
    assert inputs["known"].shape == (2, 16, 3) and inputs["static"].shape == (2, 2)
    with torch.no_grad():
        nothing = model(inputs["x"], known=torch.zeros(2, 16, 3), static=torch.zeros(2, 2))
        torch.testing.assert_close(nothing, plain(inputs["x"]))
        base = model(**inputs)
        for name in ("known", "static"):
            changed = {**inputs, name: inputs[name].clone()}
            changed[name][0, -1] += 1  # of the first sample alone; of `known` the last future step
            found = model(**changed)
            assert not torch.allclose(found[0], base[0])
    inputs["known"].requires_grad_()
    model(**inputs).sum().backward()
    assert inputs["known"].grad[:, -1].abs().sum() > 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, r"known is missing, expected \(1, 16, 3\) for a model with num_known=3"),
        ({"known": torch.zeros(1, 12, 3)}, r"known is of shape \(1, 12, 3\), expected \(1, 16, 3\)"),
        ({"known": torch.zeros(1, 16, 3), "static": torch.zeros(1, 1)}, "static is of shape .* num_static=0"),
    ],
)
def test_covariates_that_do_not_fit_are_named(given, said):
    with pytest.raises(ValueError, match=said):
        _with_covariates(num_known=3)(torch.zeros(1, 12, 2), **given)
