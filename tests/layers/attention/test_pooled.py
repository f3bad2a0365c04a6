"""Attention with pooled keys against the textbook form."""

import pytest
import torch
import torch.nn.functional as F

from blockzoo.layers.attention.pooled import PooledAttention, pool_tokens


def textbook(layer, x):
    """Position by position, head by head."""
    batch, chans, height, width = x.shape
    tokens = layer.norm(x).flatten(2).transpose(1, 2)
    if layer.pool > 1:
        q = F.linear(tokens, layer.q.weight.flatten(1), layer.q.bias)
        pooled = F.avg_pool1d(tokens.transpose(1, 2), layer.pool)
        kv = F.conv2d(layer.kv_norm(pooled[..., None]), layer.kv.weight, layer.kv.bias)[..., 0].transpose(1, 2)
        k, v = kv.chunk(2, -1)
    else:
        q, k, v = F.linear(tokens, layer.qkv.weight.flatten(1), layer.qkv.bias).chunk(3, -1)
    heads = []
    for h in range(0, chans, layer.head_dim):
        part = slice(h, h + layer.head_dim)
        scores = q[..., part] @ k[..., part].transpose(1, 2) * layer.head_dim**-0.5
        heads.append(scores.softmax(-1) @ v[..., part])
    y = F.linear(torch.cat(heads, -1), layer.proj.weight.flatten(1), layer.proj.bias)
    return y.transpose(1, 2).reshape(batch, chans, height, width)


@pytest.mark.parametrize("pool", [1, 4, 16])
@pytest.mark.parametrize("size", [(4, 4), (5, 7)])
def test_equals_the_textbook_form_merged_and_unmerged(pool, size):
    layer = PooledAttention(24, head_dim=8, pool=pool, dtype=torch.double).eval()
    for name, value in layer.state_dict().items():
        if name.endswith(("running_mean", "running_var", "norm.weight", "norm.bias")):
            value.uniform_(0.5, 1.5)
    x = torch.randn(2, 24, *size, dtype=torch.double)
    expected = textbook(layer, x)
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer(x.to(memory_format=torch.channels_last)), expected)
    layer.fuse()
    assert isinstance(layer.norm, torch.nn.Identity)
    torch.testing.assert_close(layer(x), expected)


def test_gradients():
    layer = PooledAttention(4, head_dim=2, pool=2, dtype=torch.double).eval()
    assert torch.autograd.gradcheck(layer, torch.randn(1, 4, 2, 3, dtype=torch.double, requires_grad=True))


def test_pooling_runs_over_row_ends():
    x = torch.arange(6.0).reshape(1, 1, 2, 3)
    assert pool_tokens(x, 2).flatten().tolist() == [0.5, 2.5, 4.5]
    assert pool_tokens(x, 4).flatten().tolist() == [1.5]
    with pytest.raises(ValueError, match="2 x 3 positions, too small for keys pooled over 7"):
        pool_tokens(x, 7)


def test_width_must_fit_the_heads():
    with pytest.raises(ValueError, match="chans=10 must be a multiple of head_dim=4"):
        PooledAttention(10, head_dim=4)
