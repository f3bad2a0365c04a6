"""Image families against timm, or against their own unmerged form: the demo's speed cases."""

from functools import partial

import timm
import torch

import blockzoo
from blockzoo.tasks.core.suites import SpeedCase, against_timm, deployed_copy

__all__ = ["emov2", "nasnet", "nextvit"]


def nextvit() -> SpeedCase:
    """Next-ViT-S against timm's."""
    name = "nextvit_small"
    return against_timm(name, timm.create_model(name), blockzoo.create_model(name), 160)


def nasnet() -> SpeedCase:
    """A narrow NASNet-A large against timm's."""
    theirs = timm.create_model("nasnetalarge", stem_size=32, num_features=1056)
    ours = blockzoo.create_model("nasnetalarge", stem_chans=32, width=44)
    return against_timm("nasnetalarge with cells of 44 channels", theirs, ours, 160)


def emov2() -> SpeedCase:
    """EMOv2-1M as published against the deployed one."""
    name, x = "emov2_1m", torch.randn(1, 3, 224, 224)
    model = blockzoo.create_model(name).eval()
    ours = partial(deployed_copy(model, name), x)
    return SpeedCase(f"{name}, one image of 224 px", "ours before merging, as published", partial(model, x), ours)
