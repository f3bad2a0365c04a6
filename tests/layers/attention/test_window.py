"""Window attention against a form that follows its definition pixel by pixel."""

import pytest
import torch
import torch.nn.functional as F

from blockzoo.layers.attention.window import WindowAttention, from_windows, to_windows


def by_definition(layer, x):
    """Pad, project, then attend within each window and head on its own."""
    batch, chans, height, width = x.shape
    w = layer.window
    wh, ww = (w, w) if w > 0 else (height, width)
    x = F.pad(x, (0, -width % ww, 0, -height % wh))
    rows, columns = x.shape[2:]
    nh, nw = rows // wh, columns // ww
    q, k = F.conv2d(x, layer.qk.weight, layer.qk.bias).chunk(2, 1)
    v = F.gelu(F.conv2d(x, layer.v.weight, layer.v.bias))
    total = torch.zeros_like(v)
    for partition in [name for name in ("close", "remote") if getattr(layer, name)]:
        for a in range(nh):
            for b in range(nw):
                i = range(a * wh, (a + 1) * wh) if partition == "close" else range(a, rows, nh)
                j = range(b * ww, (b + 1) * ww) if partition == "close" else range(b, columns, nw)
                grid = torch.meshgrid(torch.tensor(list(i)), torch.tensor(list(j)), indexing="ij")
                where = [index.flatten() for index in grid]
                for head in range(layer.heads):
                    part = [t.chunk(layer.heads, 1)[head][:, :, where[0], where[1]].transpose(1, 2) for t in (q, k, v)]
                    scores = (part[0] @ part[1].transpose(1, 2)) * part[0].shape[-1] ** -0.5
                    y = (scores.softmax(-1) @ part[2]).transpose(1, 2)
                    size = v.shape[1] // layer.heads
                    total[:, head * size : (head + 1) * size, where[0], where[1]] += y
    return total[:, :, :height, :width]


@pytest.mark.parametrize("partitions", [("close",), ("remote",), ("close", "remote")])
@pytest.mark.parametrize(
    ("size", "window"), [((6, 9), 3), ((5, 7), 3), ((3, 3), 3), ((4, 5), 0), ((2, 2), 3), ((3, 6), 3)]
)
@torch.no_grad()
def test_equals_its_definition_also_with_a_folded_input(size, window, partitions):
    layer = WindowAttention(6, 10, head_dim=3, window=window, partitions=partitions, dtype=torch.double).eval()
    x = torch.randn(2, 6, *size, dtype=torch.double)
    scale, shift = torch.rand(6, dtype=torch.double) + 0.5, torch.randn(6, dtype=torch.double)
    expected = by_definition(layer, x * scale.reshape(-1, 1, 1) + shift.reshape(-1, 1, 1))
    torch.testing.assert_close(layer(x * scale.reshape(-1, 1, 1) + shift.reshape(-1, 1, 1)), expected)
    layer.fold_input(scale, shift)
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer(x.to(memory_format=torch.channels_last)), expected)


@pytest.mark.parametrize("partition", ["close", "remote"])
def test_partitions_can_be_undone(partition):
    x = torch.randn(2, 6, 4, 6)
    windows = to_windows(x, (2, 3), heads=3, partition=partition)
    assert windows.shape == (2 * 4, 3, 6, 2)
    assert torch.equal(from_windows(windows, (2, 3), (4, 6), partition), x)


def test_gradients():
    layer = WindowAttention(2, 4, head_dim=1, window=2, dtype=torch.double)
    assert torch.autograd.gradcheck(layer, torch.randn(1, 2, 3, 4, dtype=torch.double, requires_grad=True))


def test_mistakes_are_explained():
    with pytest.raises(ValueError, match="chans=6 must be a multiple of head_dim=4"):
        WindowAttention(6, 12, head_dim=4)
    with pytest.raises(ValueError, match="v_chans=7 of their quotient"):
        WindowAttention(6, 7, head_dim=3)
    with pytest.raises(ValueError, match=r"partitions=\('near',\) must be one or both of close, remote"):
        WindowAttention(6, 12, head_dim=3, partitions=("near",))
