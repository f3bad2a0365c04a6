"""Commands on images: prediction, activation maps, the demo's part, and what the benchmark counts."""

import json
import os
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import blockzoo
from blockzoo.__main__ import main
from blockzoo.tasks.core.image_files import IMAGE_SUFFIXES
from blockzoo.tasks.core.memory import peak_bytes, peak_bytes_apart
from blockzoo.tasks.core.predictions import files_below
from blockzoo.tasks.images.bench import p3d_like, saved_bytes
from blockzoo.tasks.images.cam import class_activation_map

SHIPPED = [name for name in blockzoo.list_pretrained() if name.endswith(".cifar10")]


class Linear(nn.Module):
    """Two channels, pooled and classified: whose activation map is known."""

    weight = torch.tensor([[1.0, 0.0], [-1.0, 2.0]])

    def forward_features(self, x):
        return x

    def forward_head(self, x):
        return x.mean((2, 3)) @ self.weight.T


def test_activation_map_of_a_linear_head_is_the_weighted_sum():
    x = torch.rand(2, 2, 4, 5)
    found = class_activation_map(Linear(), x, torch.tensor([0, 1]))
    expected = torch.stack([x[0, 0], (2 * x[1, 1] - x[1, 0]).clamp(min=0)])
    torch.testing.assert_close(found, expected / expected.amax((1, 2), keepdim=True))
    assert not class_activation_map(Linear(), torch.zeros(1, 2, 3, 3)).any()


@pytest.mark.parametrize("name", ["nextvit_cifar", "emov2_cifar", "nasnet_cifar"])
def test_activation_maps_of_every_family_lie_in_the_unit_interval(name):
    model = blockzoo.create_model(name).eval().deploy()
    heat = class_activation_map(model, torch.randn(2, 3, 32, 32))
    assert heat.shape == (2, 32, 32) and heat.min() >= 0 and heat.max() <= 1


def test_images_are_found_in_folders_and_named_files_are_taken(tmp_path):
    for name in ("b.png", "a.jpg", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in files_below([str(tmp_path)], "image", IMAGE_SUFFIXES)] == ["a.jpg", "b.png"]
    assert [path.name for path in files_below([str(tmp_path / "notes.txt")], "image", IMAGE_SUFFIXES)] == ["notes.txt"]
    with pytest.raises(ValueError, match="nothing.png: no such file or folder"):
        files_below([str(tmp_path / "nothing.png")], "image", IMAGE_SUFFIXES)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no image in .*empty"):
        files_below([str(tmp_path / "empty")], "image", IMAGE_SUFFIXES)


@pytest.mark.skipif(not SHIPPED, reason="no image checkpoint is shipped")
def test_shipped_weights_predict_images_from_files(tmp_path, capsys):
    Image.new("RGB", (50, 40), (90, 140, 220)).save(tmp_path / "sky.png")
    assert main(["predict", SHIPPED[0], str(tmp_path), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    probabilities = row["probabilities"]
    assert row["image"].endswith("sky.png") and row["label"] == max(probabilities, key=probabilities.get)
    assert row["probability"] == probabilities[row["label"]] and sum(probabilities.values()) == pytest.approx(1)
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert main(["predict", SHIPPED[0], str(tmp_path)]) != 0
    assert "broken.png is not a readable image" in capsys.readouterr().err
    assert main(["predict", SHIPPED[0], str(tmp_path / "broken.png"), "--out", str(tmp_path / "classes.txt")]) == 2
    assert "classes.txt must end in .csv" in capsys.readouterr().err  # said before any file is read


def test_saved_bytes_count_storages_once_and_leave_out_what_is_known():
    x = torch.randn(100, requires_grad=True)
    assert saved_bytes(lambda: x * x, []) == 400
    assert saved_bytes(lambda: x * x, [x]) == 0
    assert saved_bytes(lambda: (2 * x).exp() * x, [x]) == 400


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell its peak")
def test_peak_memory_counts_what_a_function_holds_at_once():
    size = 64 << 20
    assert 0.95 * size <= peak_bytes_apart(partial, os.urandom, size) < 1.5 * size
    assert peak_bytes(lambda: None) < size / 8
    with pytest.raises(RuntimeError, match="measuring partial.*failed with status 1"):
        peak_bytes_apart(partial, os.urandom, "no number")


def test_a_p3d_like_stack_keeps_less_in_tune_than_in_eval():
    from blockzoo.layers.conv.conv_norm_act import set_conv_norm_mode

    model, x = p3d_like(chans=8, depth=4).train(), torch.randn(1, 3, 4, 24, 24)
    kept = {}
    for mode in ("eval", "tune"):
        set_conv_norm_mode(model, mode)
        kept[mode] = saved_bytes(lambda: model(x), [x, *model.parameters(), *model.buffers()])
    assert kept["tune"] < 0.7 * kept["eval"]
