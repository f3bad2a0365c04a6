"""Raptor against its teacher: the demo's speed case."""

from functools import partial

import timm
import torch

import blockzoo
from blockzoo.tasks.core.suites import SpeedCase

__all__ = ["raptor"]


def raptor() -> SpeedCase:
    """A ViT-S in timm against a deployed Raptor of two blocks; the two compute different functions by design."""
    teacher = timm.create_model("vit_small_patch16_224").eval()
    ours = blockzoo.create_model("raptor", teacher="vit_small_patch16_224", blocks=2, mlp="gelu").deploy()
    x = torch.randn(1, 3, 224, 224)
    what = "raptor, 2 blocks for vit_small_patch16_224, one image of 224 px"
    return SpeedCase(what, "its teacher in timm", partial(teacher, x), partial(ours, x), same=False)
