"""FNO against neuraloperator or the plain formulation: the demo's speed case."""

from functools import partial

import torch

from blockzoo.tasks.core.suites import SpeedCase
from blockzoo.tasks.fields.bench import make_models

__all__ = ["fno"]


def fno() -> SpeedCase:
    """A 2-D FNO against neuraloperator's where it is installed, otherwise against the plain formulation."""
    models = make_models(16, 32, {})
    x = torch.randn(2, 1, 64, 64)
    known = {"neuraloperator": "neuraloperator", "plain": "the plain formulation"}
    base = next(name for name in known if name in models)
    what = "fno2d, width 32, 16 modes, 2 fields of 64 x 64 points"
    return SpeedCase(what, known[base], partial(models[base], x), partial(models["blockzoo"], x))
