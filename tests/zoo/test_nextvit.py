"""Next-ViT: parity with the original in both published layouts, exact merges, and its corners."""

import copy

import pytest
import timm
import torch

import blockzoo
from blockzoo.layers.conv.conv_norm_act import set_conv_norm_mode

SIZES = {"small": 31_763_368, "base": 44_818_856, "large": 57_874_344}


def golden_model(case, name):
    """The model with the case's weights, through the official layout, whose order must not matter."""
    model = blockzoo.create_model(name).eval()
    official = {"model": dict(reversed(case.state_dict().items()))}
    model.load_state_dict(blockzoo.convert_state_dict(model, official), strict=True)
    return model


@pytest.mark.parametrize("deployed", [False, True])
@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_outputs_equal_the_official_code(golden, size, deployed):
    case = golden(f"nextvit_{size}")
    model = golden_model(case, f"nextvit_{size}")
    if deployed:
        model.deploy()
    x = case.image()
    stages = model.forward_intermediates(x, intermediates_only=True)
    found = {"logits": model(x), "stem": model.stem(x), **{f"stage{i + 1}": y for i, y in enumerate(stages)}}
    for name in case.meta["outputs"]:
        assert case.error(name, found[name]) < 4e-5, name


@pytest.mark.parametrize("size", SIZES)
def test_parameter_counts(size):
    model = blockzoo.create_model(f"nextvit_{size}", device="meta")
    assert sum(p.numel() for p in model.parameters()) == SIZES[size]


def randomised(model):
    """Fresh weights with norms that do something."""
    generator = torch.Generator().manual_seed(1)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2, generator=generator)
        elif name.endswith("num_batches_tracked"):
            continue
        elif value.ndim == 1:
            value.add_(0.2 * torch.randn(value.shape, generator=generator))
        else:
            value.normal_(0, (0.7 / value[0].numel()) ** 0.5, generator=generator)
    return model


@pytest.mark.parametrize("size", [(96, 96), (104, 136), (65, 97)])
@torch.no_grad()
def test_equal_to_timm_from_timms_layout(size):
    theirs = randomised(timm.create_model("nextvit_small", num_classes=7, in_chans=1)).eval()
    ours = blockzoo.create_model("nextvit_small", num_classes=7, in_chans=1).eval()
    ours.load_state_dict(blockzoo.convert_state_dict(ours, theirs.state_dict()), strict=True)
    x = torch.randn(2, 1, *size)
    y = theirs(x)
    torch.testing.assert_close(ours(x), y, atol=1e-4 * float(y.std()), rtol=0)
    torch.testing.assert_close(copy.deepcopy(ours).deploy()(x), y, atol=1e-4 * float(y.std()), rtol=0)


@torch.no_grad()
def test_deployed_model_has_no_batch_norm_but_the_last():
    model = randomised(blockzoo.create_model("nextvit_small", num_classes=5)).double().eval()
    x = torch.randn(1, 3, 75, 64, dtype=torch.double)
    before = model(x)
    model.deploy()
    torch.testing.assert_close(model(x), before, atol=1e-9 * float(before.std()), rtol=1e-9)
    norms = [
        name for name, module in model.named_modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
    ]
    assert norms == ["norm"]


def test_tune_mode_equals_eval_mode_with_gradients():
    model = randomised(blockzoo.create_model("nextvit_cifar")).double().train()
    x = torch.randn(4, 3, 32, 32, dtype=torch.double)
    grads = {}
    for mode in ("eval", "tune"):
        set_conv_norm_mode(model, mode).zero_grad()
        model(x).square().sum().backward()
        grads[mode] = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    for name, grad in grads["eval"].items():
        torch.testing.assert_close(grads["tune"][name], grad, rtol=1e-8, atol=1e-9 * float(grad.abs().max() + 1e-30))


def test_keys_are_pooled_along_rows_and_the_remainder_is_dropped():
    model = randomised(blockzoo.create_model("nextvit_cifar", attn_drop_rate=0.0)).eval()
    attention = model.stages[1].blocks[1].attn
    x = torch.randn(1, 96, 3, 3)
    changed = x.clone()
    changed[:, :, 2, 2] += 1  # the ninth of nine positions is beyond two runs of four
    before, after = attention(x), attention(changed)
    torch.testing.assert_close(before[:, :, :2], after[:, :, :2])
    assert not torch.allclose(before[:, :, 2, 2], after[:, :, 2, 2])
    with pytest.raises(ValueError, match="1 x 3 positions, too small for keys pooled over 4"):
        attention(x[:, :, :1])


def test_widths_that_do_not_fit_are_explained():
    with pytest.raises(ValueError, match="attn_chans=96 with mix_ratio=0.75 leaves 0 channels"):
        blockzoo.create_model("nextvit_cifar", attn_chans=(None, 96, 192))
    with pytest.raises(ValueError, match="se='xse' must be None or one of cse, sse, scse"):
        blockzoo.create_model("nextvit_cifar", se="xse")


@pytest.mark.parametrize("se", ["cse", "sse", "scse"])
def test_squeeze_excitation_trains(se):
    model = blockzoo.create_model("nextvit_cifar", se=se)
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
