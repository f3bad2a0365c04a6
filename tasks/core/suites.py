"""Suites of `blockzoo bench`, and speed cases of `blockzoo demo`."""

import argparse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

import blockzoo

__all__ = ["Rows", "SpeedCase", "Suite", "against_timm", "batches", "deployed_copy", "merged"]

Rows = Iterable[dict[str, Any]]


@dataclass(frozen=True)
class Suite:
    """A comparison that `blockzoo bench NAME` runs.

    Attributes:
        text: What the suite compares, for `--help`.
        rows: From the options to the table's rows; those of different tables differ in "what" or "table".
        options: Which of the shared options it takes: "batch_size", "compile", "device", "model_args".
        add_arguments: Declares its own options.
        tables: Names of its tables, from which `--only` chooses; none if there is one table.
        family: The family of the suite, if it has another name.
        summary: Options for its run in `blockzoo bench models`; None leaves it out.
    """

    text: str
    rows: Callable[[argparse.Namespace], Rows]
    options: tuple[str, ...] = ("batch_size", "compile", "device")
    add_arguments: Callable[[argparse.ArgumentParser], None] | None = None
    tables: tuple[str, ...] = ()
    summary: Mapping[str, Any] | None = field(default_factory=dict)
    family: str = ""


@dataclass
class SpeedCase:
    """Two ways to compute something, timed turn by turn on the demo page.

    Attributes:
        what: Model and input, for people.
        reference: What the original is.
        theirs: The original, as a call without arguments.
        ours: Our model, as a call without arguments.
        same: Whether both compute the same function, on the same weights.
    """

    what: str
    reference: str
    theirs: Callable[[], Any]
    ours: Callable[[], Any]
    same: bool = True


def batches(args: argparse.Namespace, small: int, large: int) -> list[int]:
    """Batch sizes to measure: the requested one, or one sample and a number that keeps the device busy."""
    return [args.batch_size] if args.batch_size else [1, large if args.device == "cuda" else small]


def deployed_copy(model: Any, name: str, **kwargs: Any) -> Any:
    """The model built once more with the same weights, and deployed."""
    copy = blockzoo.create_model(name, **kwargs)
    copy.load_state_dict(model.state_dict())
    return copy.deploy()


def against_timm(what: str, theirs: Any, ours: Any, size: int) -> SpeedCase:
    """Timm's image model against ours, deployed, on the same weights and one image of `size` pixels a side."""
    theirs.eval()
    ours.load_state_dict(blockzoo.convert_state_dict(ours, theirs.state_dict()))
    x = torch.randn(1, 3, size, size)
    return SpeedCase(f"{what}, one image of {size} px", "timm", partial(theirs, x), partial(ours.deploy(), x))


def merged(name: str, **kwargs: Any) -> SpeedCase:
    """A model as built, which is the published form, against the same model deployed, on its example inputs."""
    model = blockzoo.create_model(name, **kwargs).eval()
    inputs = model.example_inputs(1, torch.Generator().manual_seed(0))
    sizes = " x ".join(map(str, next(iter(inputs.values())).shape))
    ours = partial(deployed_copy(model, name, **kwargs), **inputs)
    return SpeedCase(f"{name}, input {sizes}", "ours before merging, as published", partial(model, **inputs), ours)
