"""Refuses to build models of sizes that nobody can mean, before that takes minutes or all memory.

Environment:

    BLOCKZOO_MAX_PARAMETERS   most numbers in a model's parameters and buffers; default 2,000,000,000 (8 GB in float32)
    BLOCKZOO_MAX_LAYERS       most modules in a model; default 10,000

The zoo's largest model has 89 million parameters in 1,700 modules. Drawing the values of billions takes minutes, so:

1. Build the model. Its modules are counted as they are made, and tensors before their values are drawn.
2. Where it passes `_LARGE` numbers, stop, and build it without values, on torch's meta device, up to the limits.
3. If it keeps to them, build it after all, from the random state of the first attempt.

torch tells three functions of this module about every tensor and module that is made. They are registered once: torch
cannot make modules in one thread while another changes its table of such functions.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

__all__ = ["build_within_limits"]

ModelT = TypeVar("ModelT")

_NUMBERS, _LAYERS = "BLOCKZOO_MAX_PARAMETERS", "BLOCKZOO_MAX_LAYERS"
_DEFAULTS = {_NUMBERS: 2_000_000_000, _LAYERS: 10_000}

_LARGE = 200_000_000
"""Numbers whose values are drawn in seconds, so that up to here no trial without values is worth its time."""


class _TooMany(Exception):
    """A model passes a bound, which is named by its variable."""


def build_within_limits(what: str, build: Callable[[], ModelT], trial: Callable[[], object]) -> ModelT:
    """Build a model unless it would outgrow the limits.

    Args:
        what: What cannot be built, for the message.
        build: Builds the model.
        trial: Builds it on the meta device, without weights.

    Raises:
        ValueError: It has more numbers or modules than the limits allow; the message names the variable that raises the
            limit.
    """
    if _build.bounds:  # a model inside of another is a part of that one
        return build()
    limits = {name: _limit(name) for name in _DEFAULTS}
    state = torch.get_rng_state()
    try:
        try:
            with _bounded({**limits, _NUMBERS: min(_LARGE, limits[_NUMBERS])}):
                return build()
        except _TooMany as stop:
            if stop.args[0] == _LAYERS:
                raise
        with torch.device("meta"), _bounded(limits):
            trial()
        torch.set_rng_state(state)
        return build()
    except _TooMany as stop:
        name = stop.args[0]
        unit = "parameters" if name == _NUMBERS else "layers"
        raise ValueError(
            f"{what}: it would have more than {limits[name]:,} {unit}; give smaller sizes, or set {name} if you mean it"
        ) from None


class _Build(threading.local):
    """The build that is going on in a thread: its counts so far, and its bounds, which are empty outside of a build."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.bounds: dict[str, int] = {}


_build = _Build()


@contextmanager
def _bounded(bounds: dict[str, int]) -> Iterator[None]:
    """Within it, the modules that this thread makes are counted, and a bound that is passed raises `_TooMany`."""
    _build.counts, _build.bounds = dict.fromkeys(bounds, 0), bounds
    try:
        yield
    finally:
        _build.bounds = {}


def _count(name: str, number: int) -> None:
    if not _build.bounds:
        return
    _build.counts[name] += number
    if _build.counts[name] > _build.bounds[name]:
        raise _TooMany(name)


def _count_tensor(module: nn.Module, name: str, value: torch.Tensor | None) -> None:
    if value is not None and not isinstance(value, nn.UninitializedParameter | nn.UninitializedBuffer):
        _count(_NUMBERS, value.numel())


def _count_layer(module: nn.Module, name: str, value: nn.Module | None) -> None:
    _count(_LAYERS, 1)


register_module_parameter_registration_hook(_count_tensor)
register_module_buffer_registration_hook(_count_tensor)
register_module_module_registration_hook(_count_layer)


def _limit(name: str) -> int:
    """A limit from the environment.

    Raises:
        ValueError: It is not a whole number above 0.
    """
    text = os.environ.get(name, "").strip()
    if not text:
        return _DEFAULTS[name]
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{name}={text!r} must be a whole number above 0")
    return int(text)
