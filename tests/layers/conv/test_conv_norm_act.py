"""Convolution, norm and activation: the four modes are one function, and Tune keeps less."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from blockzoo.layers.conv.conv_norm_act import ConvNormAct, ModalBatchNorm2d, NormConv, pad_same, set_conv_norm_mode

LAYERS = {
    "2d": lambda: ConvNormAct(4, 6, 3, stride=2, dtype=torch.double),
    "2d_same": lambda: ConvNormAct(4, 6, 5, stride=2, padding="same", act_layer=nn.SiLU, dtype=torch.double),
    "2d_grouped_bias": lambda: ConvNormAct(4, 8, 3, groups=2, bias=True, act_layer=None, dtype=torch.double),
    "3d": lambda: ConvNormAct(4, 6, (3, 1, 1), dims=3, dtype=torch.double),
    "3d_spatial": lambda: ConvNormAct(4, 6, (1, 3, 3), stride=(1, 2, 2), dims=3, bias=True, dtype=torch.double),
    "norm_conv": lambda: NormConv(4, 6, dtype=torch.double),
    "norm_conv_no_bias": lambda: NormConv(4, 6, bias=False, dtype=torch.double),
}


@pytest.fixture(params=LAYERS)
def layer(request):
    """A layer whose norm does something, in training mode."""
    layer = LAYERS[request.param]()
    generator = torch.Generator().manual_seed(0)
    layer.norm.weight.data.uniform_(-2, 2, generator=generator)
    layer.norm.bias.data.normal_(generator=generator)
    layer.norm.running_mean.normal_(generator=generator)
    layer.norm.running_var.uniform_(0.1, 3, generator=generator)
    return layer


def sample(layer):
    return torch.randn(2, 4, *[7, 5, 6][: layer.conv.weight.ndim - 2], dtype=torch.double)


def test_tune_has_the_outputs_and_gradients_of_eval(layer):
    x = sample(layer)
    found = {}
    for mode in ("eval", "tune"):
        layer.set_mode(mode)
        layer.zero_grad()
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        y.square().sum().backward()
        found[mode] = [y, leaf.grad, *(parameter.grad.clone() for parameter in layer.parameters())]
    for ours, theirs in zip(found["tune"], found["eval"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_statistics_move_in_train_mode_only(layer):
    x = sample(layer)
    for mode in ("eval", "tune", "train"):
        before = layer.norm.running_mean.clone()
        layer.set_mode(mode)
        layer.train()(x)
        assert torch.equal(before, layer.norm.running_mean) == (mode != "train")


def test_eval_mode_is_train_mode_in_evaluation(layer):
    x = sample(layer)
    expected = layer.eval()(x)
    layer.set_mode("eval")
    torch.testing.assert_close(layer.train()(x), expected)


def test_deploy_is_one_convolution_with_the_same_function(layer):
    x = sample(layer)
    expected = layer.eval()(x)
    merged = copy.deepcopy(layer)
    set_conv_norm_mode(merged, "deploy")
    torch.testing.assert_close(merged(x), expected)
    assert isinstance(merged.norm, nn.Identity)
    assert set(merged.state_dict()) == {"conv.weight", "conv.bias"}
    set_conv_norm_mode(merged, "deploy")
    with pytest.raises(RuntimeError, match="mode='tune': the layer is merged"):
        merged.set_mode("tune")


def test_tune_does_not_keep_the_activation_before_the_norm():
    layer = ConvNormAct(8, 64, 3)
    x = torch.randn(2, 8, 48, 48)

    def kept(mode):
        layer.set_mode(mode)
        stored = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: stored.setdefault(t.untyped_storage().data_ptr(), t), lambda t: t
        ):
            y = layer(x)
        return sum(t.untyped_storage().nbytes() for t in stored.values()), y.untyped_storage().nbytes()

    (in_eval, output), (in_tune, _) = kept("eval"), kept("tune")
    assert in_eval - in_tune > 0.9 * output


def test_tune_folds_bfloat16_layers_in_float32():
    layer = ConvNormAct(4, 4, 1, act_layer=None, dtype=torch.bfloat16)
    layer.norm.running_var.fill_(1e-3)
    layer.norm.running_mean.fill_(0.3)
    weight, bias = layer.folded()
    assert weight.dtype == bias.dtype == torch.bfloat16
    exact = layer.norm.running_mean.double() * (layer.norm.running_var.double() + 1e-5).rsqrt()
    torch.testing.assert_close(bias.double(), -exact, rtol=4e-3, atol=0)


def test_a_model_is_switched_whole():
    model = nn.Sequential(ConvNormAct(3, 4, 3), ModalBatchNorm2d(4), NormConv(4, 2)).train()
    lone = model[1]
    x = torch.randn(2, 3, 5, 5)
    assert set_conv_norm_mode(model, "tune") is model
    before = lone.running_mean.clone()
    model.train()(x)
    assert torch.equal(lone.running_mean, before) and not lone.training
    set_conv_norm_mode(model, "train")
    assert lone.training and model[0].norm.training
    model(x)
    assert not torch.equal(lone.running_mean, before)
    model.eval()
    set_conv_norm_mode(model, "eval")
    set_conv_norm_mode(model, "train")
    assert not lone.training


def test_mistakes_are_explained():
    with pytest.raises(ValueError, match="mode='tuned' must be one of train, eval, tune, deploy"):
        set_conv_norm_mode(nn.Sequential(ConvNormAct(1, 1)), "tuned")
    with pytest.raises(ValueError, match="Linear has no ConvNormAct or NormConv"):
        set_conv_norm_mode(nn.Linear(1, 1), "tune")
    with pytest.raises(ValueError, match="dims=1 must be 2 or 3"):
        ConvNormAct(1, 1, dims=1)
    with pytest.raises(ValueError, match="padding='valid' must be numbers, None or 'same'"):
        ConvNormAct(1, 1, padding="valid")
    with pytest.raises(ValueError, match="must be one number or 2, one for each space axis"):
        ConvNormAct(1, 1, (3, 3, 3))


@pytest.mark.parametrize("size", range(1, 9))
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 2), (7, 2), (2, 2), (3, 3), (1, 2)])
def test_same_padding_gives_the_rounded_up_size_and_pads_behind(size, kernel, stride):
    x = torch.ones(1, 1, size, 1)
    padded = pad_same(x, [kernel, 1], [stride, 1], value=5.0)
    assert F.max_pool2d(padded, (kernel, 1), (stride, 1)).shape[2] == -(-size // stride)
    total = padded.shape[2] - size
    front = int((padded[0, 0, :, 0] == 5).int().cumprod(0).sum())
    assert front == total // 2 and total == max((-(-size // stride) - 1) * stride + kernel - size, 0)


@pytest.mark.parametrize("mode", ["train", "eval", "tune", "deploy"])
def test_compiles_in_one_graph(mode):
    model = nn.Sequential(ConvNormAct(3, 4, 3, stride=2, padding="same"), NormConv(4, 2)).eval()
    set_conv_norm_mode(model, mode)
    x = torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(x), model(x))
