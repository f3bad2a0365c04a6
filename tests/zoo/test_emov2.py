"""EMOv2: parity with the original, exact merges, windows, and its corners."""

import copy

import pytest
import torch

import blockzoo

PARAMETERS = {
    "emov2_1m": 1_460_844,
    "emov2_2m": 2_384_312,
    "emov2_5m": 5_126_440,
    "emov2_20m": 20_195_208,
    "emov2_50m": 49_815_560,
    "emov1_1m": 1_454_316,
    "emov1_2m": 2_374_840,
    "emov1_5m": 5_110_312,
    "emov1_20m": 20_170_632,
}


def randomised(model):
    """Fresh weights with norms and layer scales that do something."""
    generator = torch.Generator().manual_seed(1)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2, generator=generator)
        elif name.endswith("gamma"):
            value.uniform_(0.5, 1.5, generator=generator)
        elif value.ndim == 1:
            value.add_(0.2 * torch.randn(value.shape, generator=generator))
    return model


@pytest.mark.parametrize("deployed", [False, True])
@pytest.mark.parametrize("size", ["1m", "2m", "5m", "20m"])
@torch.no_grad()
def test_outputs_equal_the_official_code(golden, size, deployed):
    case = golden(f"emov2_{size}")
    model = blockzoo.create_model(f"emov2_{size}").eval()
    official = {"net": {}, "net_E": dict(reversed(case.state_dict().items()))}
    model.load_state_dict(blockzoo.convert_state_dict(model, official), strict=True)
    if deployed:
        model.deploy()
    x = case.image()
    stages = model.forward_intermediates(x, intermediates_only=True)
    found = {"logits": model(x), **{f"stage{i + 1}": y for i, y in enumerate(stages)}}
    for name in case.meta["outputs"]:
        assert case.error(name, found[name]) < 2e-5, name


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts(name):
    model = blockzoo.create_model(name, device="meta")
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize(
    ("name", "kwargs", "size"),
    [
        ("emov2_1m", {}, (224, 224)),
        ("emov2_1m", {"window_size": 8}, (256, 256)),
        ("emov2_1m", {"in_chans": 1}, (97, 131)),
        ("emov2_1m", {"window_size": 0}, (64, 96)),
        ("emov1_1m", {"in_chans": 4}, (104, 136)),
        ("emov1_1m", {}, (112, 112)),
        ("emov2_cifar", {}, (32, 32)),
        ("emov2_cifar", {}, (30, 21)),
    ],
)
@torch.no_grad()
def test_deployed_equals_unmerged(name, kwargs, size):
    model = randomised(blockzoo.create_model(name, num_classes=7, **kwargs)).eval()
    x = torch.randn(3, model.in_chans, *size)
    before = model(x)
    merged = copy.deepcopy(model).deploy()
    torch.testing.assert_close(merged(x), before, atol=3e-5 * float(before.std()), rtol=0)
    torch.testing.assert_close(merged.deploy()(x), before, atol=3e-5 * float(before.std()), rtol=0)
    torch.testing.assert_close(merged(x[:1]), before[:1], atol=3e-5 * float(before.std()), rtol=0)
    left = [name for name in merged.state_dict() if "running" in name or "gamma" in name]
    assert not left and "stem.2.weight" not in merged.state_dict()


@torch.no_grad()
def test_weights_serve_every_window():
    model = randomised(blockzoo.create_model("emov2_1m"))
    for window in (8, 10, 0):
        blockzoo.create_model("emov2_1m", window_size=window).load_state_dict(model.state_dict(), strict=True)


def test_fresh_model_hardly_sees_its_input_and_init_values_mends_that():
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        published = blockzoo.create_model("emov2_cifar", init_values=1e-6).eval()(x)
        ours = blockzoo.create_model("emov2_cifar").eval()(x)
    assert (published[0] - published[1]).abs().max() < 1e-3 < (ours[0] - ours[1]).abs().max()


def test_layer_scales_are_not_decayed():
    model = blockzoo.create_model("emov2_cifar")
    assert len(model.no_weight_decay()) == 6 and all(name.endswith("gamma") for name in model.no_weight_decay())
