"""Pseudo-3-D convolutions: against 3-D convolutions, and their memory."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from blockzoo.layers.conv.pseudo3d import (
    FrameConv,
    PseudoConv3d,
    TimeConv,
    as_clip,
    as_courses,
    as_frames,
    channels_last_clip,
    pool_time,
)


def randomize(module):
    """Batch norms with statistics and scales that are not those of a fresh one."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean, std=0.2)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
            nn.init.uniform_(norm.weight, -1.5, 1.5)
            nn.init.normal_(norm.bias, std=0.2)
    return module


def conv3d(layer, x, kernel, pad, stride=1):
    """The layer's convolution and norm as 3-D operations, without activation."""
    weight = layer.conv.weight.reshape(*layer.conv.weight.shape[:2], *kernel)
    norm = layer.norm
    y = F.conv3d(x, weight, None, (1, stride, stride), pad)
    return F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)


def test_views_of_a_clip_in_channels_last_memory_copy_nothing():
    x = channels_last_clip(torch.randn(2, 5, 3, 4, 6))
    frames, courses = as_frames(x), as_courses(x)
    assert frames.data_ptr() == courses.data_ptr() == as_clip(frames, 3).data_ptr() == x.data_ptr()
    assert frames.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(frames[4], x[1, :, 1]) and torch.equal(courses[1, :, 2], x[1, :, 2].flatten(1))
    assert torch.equal(as_clip(frames, 3), x)


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last_3d])
def test_layers_are_3d_convolutions(steps, memory):
    x = torch.randn(2, 6, steps, 7, 5).contiguous(memory_format=memory)
    space, time = randomize(FrameConv(6, 4, 3, 2)).eval(), randomize(TimeConv(6)).eval()
    torch.testing.assert_close(space(x), conv3d(space.layer, x, (1, 3, 3), (0, 1, 1), 2).relu(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(time(x), conv3d(time.layer, x, (3, 1, 1), (1, 0, 0)).relu(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("semantics", ["port", "caffe"])
@pytest.mark.parametrize("structure", ["A", "B", "C"])
@pytest.mark.parametrize("mean_c", [False, True])
def test_structures(structure, semantics, mean_c):
    pair = randomize(PseudoConv3d(4, structure, semantics, mean_c)).double().eval()
    x = torch.randn(2, 4, 3, 5, 6, dtype=torch.double)
    s = conv3d(pair.space.layer, x, (1, 3, 3), (0, 1, 1)).relu()
    t = conv3d(pair.time.layer, x if structure == "B" else s, (3, 1, 1), (1, 0, 0))
    wanted = t.relu() if structure == "A" else s + t.relu() if semantics == "port" else (s + t).relu()
    if mean_c and structure == "C":
        wanted = wanted / 2
    torch.testing.assert_close(pair(x), wanted)


@pytest.mark.parametrize("structure", ["A", "B", "C"])
def test_a_stride_is_in_space_only(structure):
    x = torch.randn(1, 4, 3, 7, 5)
    assert PseudoConv3d(4, structure, stride=2)(x).shape == (1, 4, 3, 4, 3)


def test_pool_over_time_keeps_or_drops_an_odd_frame():
    x = torch.randn(2, 3, 5, 4, 4)
    pairs = torch.stack([x[:, :, :2].amax(2), x[:, :, 2:4].amax(2)], 2)
    assert torch.equal(pool_time(x, round_up=False), pairs)
    assert torch.equal(pool_time(x, round_up=True), torch.cat([pairs, x[:, :, 4:]], 2))
    assert torch.equal(pool_time(x[:, :, :1], round_up=False), x[:, :, :1])


def test_gradients():
    x = torch.randn(1, 2, 3, 3, 3, dtype=torch.double, requires_grad=True)
    for structure in "ABC":
        pair = randomize(PseudoConv3d(2, structure, "caffe")).double().eval()
        assert torch.autograd.gradcheck(pair, (x,))


def test_unknown_words_are_refused():
    with pytest.raises(ValueError, match="structure='D' must be"):
        PseudoConv3d(4, "D")
    with pytest.raises(ValueError, match="semantics='torch' must be"):
        PseudoConv3d(4, "A", "torch")
