"""Convolutions for inference equal the ordinary ones in every situation."""

import copy
import pickle

import pytest
import torch
from torch import nn

from blockzoo.layers.conv.deployed_conv import DeployedConv2d, deploy_convolutions, runs_eagerly_on_cpu

CONVS = {
    "1x1": lambda: nn.Conv2d(8, 6, 1),
    "strided": lambda: nn.Conv2d(8, 6, 3, stride=2, padding=1, bias=False),
    "depthwise": lambda: nn.Conv2d(8, 8, 5, padding=2, groups=8),
    "dilated": lambda: nn.Conv2d(8, 4, 3, dilation=2, groups=2),
}


@pytest.mark.parametrize("act", [nn.Identity, nn.ReLU, nn.SiLU, nn.GELU, nn.Tanh, lambda: nn.GELU("tanh")])
@pytest.mark.parametrize("conv", CONVS)
def test_fast_form_equals_the_ordinary_one(conv, act):
    conv, act = CONVS[conv](), act()
    layer = DeployedConv2d(conv, act)
    for shape in [(1, 8, 9, 7), (3, 8, 9, 7), (2, 8, 5, 5)]:
        x = torch.randn(shape)
        expected = act(conv(x))
        with torch.no_grad():
            torch.testing.assert_close(layer(x), expected)
        with torch.inference_mode():
            torch.testing.assert_close(layer(x.to(memory_format=torch.channels_last)), expected)
        torch.testing.assert_close(layer(x), expected)


@torch.no_grad()
def test_new_weights_are_noticed():
    layer = DeployedConv2d(nn.Conv2d(4, 4, 1))
    x = torch.randn(1, 4, 3, 3)
    before = layer(x)
    layer.weight.mul_(2)
    layer.bias.mul_(2)
    torch.testing.assert_close(layer(x), 2 * before)
    layer.load_state_dict({name: 2 * value for name, value in layer.state_dict().items()})
    torch.testing.assert_close(layer(x), 4 * before)
    layer.weight = nn.Parameter(torch.zeros_like(layer.weight))
    torch.testing.assert_close(layer(x), 4 * (layer.bias / 4).reshape(1, 4, 1, 1).expand_as(before))


@torch.no_grad()
def test_copies_and_pickles_without_the_rearranged_weights():
    layer = DeployedConv2d(nn.Conv2d(4, 4, 3), nn.ReLU())
    x = torch.randn(2, 4, 6, 6)
    y = layer(x)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert twin._packed is None
        torch.testing.assert_close(twin(x), y)
    assert set(layer.state_dict()) == {"weight", "bias"}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning", "ignore:.*torch.jit.*:DeprecationWarning")
def test_differentiates_casts_compiles_exports_and_scripts():
    layer = DeployedConv2d(nn.Conv2d(4, 4, 3, padding=1), nn.SiLU()).eval()
    x = torch.randn(2, 4, 6, 6)
    with torch.no_grad():
        y = layer(x)
        torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), y)
        exported = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
        assert "mkldnn" not in exported.code
        torch.testing.assert_close(exported(torch.cat([x, x])), torch.cat([y, y]))
        torch.testing.assert_close(torch.jit.script(layer)(x), y)
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
        torch.testing.assert_close(copy.deepcopy(layer).double()(x.double()), y.double(), rtol=1e-4, atol=1e-5)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    assert torch.autograd.gradcheck(copy.deepcopy(layer).double(), x[:1, :, :3, :3].double().requires_grad_())


def test_eager_inference_is_told_from_everything_else():
    x = torch.randn(1)
    assert not runs_eagerly_on_cpu(x)
    with torch.no_grad():
        assert runs_eagerly_on_cpu(x)
        assert not runs_eagerly_on_cpu(x.to("meta"))


def test_a_model_keeps_names_and_other_layers():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding="same"), nn.Linear(2, 2))
    before = model.state_dict()
    deploy_convolutions(model)
    assert [type(layer) for layer in model] == [DeployedConv2d, nn.Conv2d, nn.Linear]
    assert list(model.state_dict()) == list(before)
    with pytest.raises(ValueError, match="padding='same'"):
        DeployedConv2d(model[1])
