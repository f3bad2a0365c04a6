"""NASNet-A: parity with timm and with the golden case, wiring, scheduled drop path."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import blockzoo
from blockzoo.layers.conv.scheduled_drop_path import ScheduledDropPath, set_drop_path_progress
from blockzoo.nasnet import _avg_pool, _max_pool


def randomised(model):
    """Fresh weights with norms that do something."""
    generator = torch.Generator().manual_seed(1)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2, generator=generator)
        elif value.ndim == 1:
            value.add_(0.2 * torch.randn(value.shape, generator=generator))
    return model


@torch.no_grad()
def test_outputs_equal_timms_on_the_golden_weights(golden):
    case = golden("nasnetalarge")
    model = blockzoo.create_model("nasnetalarge").eval()
    model.load_state_dict(blockzoo.convert_state_dict(model, case.state_dict()), strict=True)
    x = case.image()
    found = {}
    for name, cell in (("stem1", 1), ("stage1", 7), ("stage2", 14), ("stage3", 21)):
        model.cells[cell].register_forward_hook(lambda _m, _i, y, name=name: found.__setitem__(name, y.clone()))
    model.stem.register_forward_hook(lambda _m, _i, y: found.__setitem__("stem0", y.clone()))
    found["logits"] = model(x)
    for name in case.meta["outputs"]:
        assert case.error(name, found[name]) < 2e-5, name
    assert case.error("logits", model.deploy()(x)) < 2e-5


@pytest.mark.parametrize("size", [(75, 75), (64, 97)])
@torch.no_grad()
def test_equal_to_timm_at_other_sizes_and_channels(size):
    theirs = randomised(timm.create_model("nasnetalarge", num_classes=5, in_chans=1)).eval()
    ours = blockzoo.create_model("nasnetalarge", num_classes=5, in_chans=1).eval()
    ours.load_state_dict(blockzoo.convert_state_dict(ours, theirs.state_dict()), strict=True)
    x = torch.randn(1, 1, *size)
    y = theirs(x)
    torch.testing.assert_close(ours(x), y, atol=1e-4 * float(y.std()), rtol=0)
    for mine, timms in zip(
        ours.forward_intermediates(x, intermediates_only=True),
        theirs.forward_intermediates(x, intermediates_only=True),
        strict=True,
    ):
        torch.testing.assert_close(mine, timms, atol=1e-4 * float(timms.std()), rtol=0)


@pytest.mark.parametrize("name", ["nasnetamobile", "nasnet_cifar"])
@pytest.mark.parametrize("size", [(64, 64), (65, 51)])
@torch.no_grad()
def test_deployed_equals_unmerged(name, size):
    model = randomised(blockzoo.create_model(name, num_classes=5)).eval()
    x = torch.randn(2, 3, *size)
    before = model(x)
    merged = copy.deepcopy(model).deploy()
    torch.testing.assert_close(merged(x), before, atol=3e-5 * float(before.std()), rtol=0)
    assert not [name for name in merged.state_dict() if "running" in name]


def test_mobile_has_the_published_size():
    model = blockzoo.create_model("nasnetamobile").eval()
    assert sum(p.numel() for p in model.parameters()) == 5_289_978
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.randn(1, 3, 224, 224))
    assert counter.get_total_flops() == 2 * 563_638_816
    large = blockzoo.create_model("nasnetalarge", device="meta")
    assert sum(p.numel() for p in large.parameters()) == 88_753_150


def test_the_models_differ_in_what_follows_a_reduction():
    large = blockzoo.create_model("nasnetalarge", device="meta")
    mobile = blockzoo.create_model("nasnetamobile", device="meta")
    assert [i for i, keeps in enumerate(large.keeps_prev) if keeps] == [8, 15]
    assert not any(mobile.keeps_prev)
    assert mobile.official_cells[6:8] == ["reduction_cell_0", "cell_6"]
    assert [info["num_chs"] for info in mobile.feature_info] == [32, 44, 264, 528, 1056]


def test_background_class_is_dropped_where_the_model_has_none():
    model = blockzoo.create_model("nasnetamobile", num_classes=1000)
    official = {"last_linear.weight": torch.randn(1001, 1056), "last_linear.bias": torch.arange(1001.0)}
    converted = blockzoo.convert_state_dict(model, {**official, "conv0.bn.weight": torch.ones(32)})
    assert converted["head.fc.bias"][0] == 1 and converted["stem.norm.weight"].shape == (32,)
    whole = blockzoo.create_model("nasnetamobile", num_classes=1001, device="meta")
    assert blockzoo.convert_state_dict(whole, {**official, "conv0.bn.weight": torch.ones(32)})[
        "head.fc.bias"
    ].shape == (1001,)
    with pytest.raises(ValueError, match=r"'cell_40\.conv_1x1\.conv\.weight'; the cells of this model are cell_stem_0"):
        blockzoo.convert_state_dict(model, {"conv0.bn.bias": 0, "cell_40.conv_1x1.conv.weight": 0})


@pytest.mark.parametrize("height", [1, 2, 5, 8])
@pytest.mark.parametrize("width", [3, 6])
def test_strided_pools_pad_like_tensorflow(height, width):
    x = torch.randn(1, 2, height, width)
    pads = []
    for size in (width, height):
        total = max((-(-size // 2) - 1) * 2 + 3 - size, 0)
        pads += [total // 2, total - total // 2]
    real = F.avg_pool2d(F.pad(torch.ones_like(x), pads), 3, 2)
    window = F.avg_pool2d(F.pad(x, pads), 3, 2)
    torch.testing.assert_close(_avg_pool(x, 2, "window"), window)
    torch.testing.assert_close(_avg_pool(x, 2, "real"), window / real)
    torch.testing.assert_close(_max_pool(x), F.max_pool2d(F.pad(x, pads, value=float("-inf")), 3, 2))


def test_scheduled_drop_path_grows_with_progress_and_depth():
    model = blockzoo.create_model("nasnet_cifar", drop_path_rate=0.4)
    rates = [module.rate for module in model.modules() if isinstance(module, ScheduledDropPath)]
    assert rates == sorted(rates) and abs(rates[-1] - 0.4) < 1e-9 and rates[0] > 0
    drop = ScheduledDropPath(0.5).train()
    x = torch.ones(20000, 1)
    for fraction in (0.0, 0.4, 1.0):
        set_drop_path_progress(drop, fraction)
        y = drop(x)
        keep = 1 - 0.5 * fraction
        assert abs(float((y > 0).float().mean()) - keep) < 0.02
        torch.testing.assert_close(y[y > 0], torch.full_like(y[y > 0], 1 / keep))
    assert torch.equal(drop.eval()(x), x)
    assert "progress" not in drop.state_dict()
    with pytest.raises(ValueError, match=r"fraction=1.5 must be in \[0, 1\]"):
        set_drop_path_progress(drop, 1.5)
    with pytest.raises(ValueError, match=r"rate=1 must be in \[0, 1\)"):
        ScheduledDropPath(1)
    with pytest.raises(ValueError, match="pool_count='all' must be 'real' or 'window'"):
        blockzoo.create_model("nasnet_cifar", pool_count="all")
