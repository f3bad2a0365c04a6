"""The shipped image classifiers: what their manifest entries claim, merged and unmerged."""

from importlib.resources import files

import pytest
import torch
from safetensors.torch import load_file

import blockzoo
from blockzoo.checkpoints import load_manifest

SHIPPED = [name for name in blockzoo.list_pretrained() if name.endswith(".cifar10")]


@pytest.mark.parametrize("deployed", [False, True])
@pytest.mark.parametrize("name", SHIPPED)
@torch.no_grad()
def test_accuracy_on_the_packaged_images_is_the_claimed_one(name, deployed):
    model = blockzoo.create_model(name, pretrained=True).eval()
    if deployed:
        model.deploy()
    sample = load_file(str(files("blockzoo.tasks.core") / "cifar10_sample.safetensors"))
    mean, std = (torch.tensor(model.pretrained_cfg[key]).reshape(1, 3, 1, 1) for key in ("mean", "std"))
    logits = model((sample["images"].float() / 255 - mean) / std)
    accuracy = float((logits.argmax(1) == sample["labels"]).double().mean())
    metric = load_manifest()[name].metric
    assert abs(accuracy - metric["sample"]) <= 1e-6
    assert abs(metric["value"] - accuracy) < 0.1 and model.pretrained_cfg["label_names"][3] == "cat"


def test_every_family_ships_one():
    families = ("emov2", "nasnet", "nextvit", "raptor")
    assert SHIPPED == [f"{family}_cifar.cifar10" for family in families]
