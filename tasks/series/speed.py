"""TimesNet against the plain formulation: the demo's speed case."""

from functools import partial

import torch
from torch import nn

import blockzoo
from blockzoo.tasks.core.suites import SpeedCase, deployed_copy
from blockzoo.tasks.series.plain import PlainPeriodBlock

__all__ = ["timesnet"]


def timesnet() -> SpeedCase:
    """A forecaster in the plain formulation against the deployed one."""
    name = "timesnet_forecast"
    model = blockzoo.create_model(name).eval()
    inputs = model.example_inputs(4, torch.Generator().manual_seed(0))
    for cycle in (24, 12, 8):
        inputs["x"] += torch.sin(2 * torch.pi * torch.arange(model.seq_len) / cycle)[:, None]
    deployed = deployed_copy(model, name)
    model.blocks = nn.ModuleList(PlainPeriodBlock(block) for block in model.blocks)
    what = f"{name}, 4 series of {model.seq_len} steps"
    return SpeedCase(what, "the plain formulation", partial(model, **inputs), partial(deployed, **inputs))
