"""P3D against the plain formulation: the demo's speed case."""

from functools import partial

import torch

import blockzoo
from blockzoo.tasks.core.suites import SpeedCase, deployed_copy
from blockzoo.tasks.video.bench import PlainP3D

__all__ = ["p3d"]


def p3d() -> SpeedCase:
    """P3D-63 in plain 3-D convolutions against the deployed one."""
    name, x = "p3d63", torch.randn(1, 3, 8, 80, 80)
    model = blockzoo.create_model(name).eval()
    plain = PlainP3D(model).eval()
    ours = partial(deployed_copy(model, name), x)
    return SpeedCase(f"{name}, a clip of 8 frames of 80 px", "plain 3-D convolutions", partial(plain, x), ours)
