"""Weights of a file that a caller names: adapted to the number of classes and channels that the model is built with."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from blockzoo import checkpoints
from blockzoo._model import ZooModel
from blockzoo.checkpoints.io import unwrap

__all__ = ["FileWeights", "adapted", "convert_state_dict"]


class FileWeights(dict[str, Any]):
    """A state dict that knows where it came from, and whether its reader chose a number of classes."""

    file: Path
    classes_chosen: bool


def convert_state_dict(model: nn.Module, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Turn a published checkpoint's state dict into the layout of `model`; ours passes unchanged.

    Args:
        model: A model of the zoo, which says what layouts it knows.
        state_dict: Tensors by name in the published layout, or in ours, also with the prefix "model." of a task.

    Raises:
        TypeError: `model` is not one of ours.
    """
    if not isinstance(model, ZooModel):
        raise TypeError(f"model must be a model of the zoo, not {type(model).__name__}")
    return type(model).convert_state_dict(unwrap(state_dict), model)


def adapted(state_dict: dict[str, Any], model: ZooModel, weights: FileWeights) -> dict[str, Any]:
    """Weights of a file in our layout; the configuration learns from it how many classes and channels it is for.

    timm drops a classifier of another number of classes and adapts a stem to other channels by what the configuration
    says. A file of weights says that itself.
    """
    found = convert_state_dict(model, weights)
    cfg = model.pretrained_cfg
    heads = cfg.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    own = model.state_dict()
    for head in heads:
        weight = found.get(f"{head}.weight")
        if not isinstance(weight, torch.Tensor) or not cfg.get("num_classes"):
            continue
        cfg["num_classes"] = weight.shape[0]
        built = getattr(model, "num_classes", weight.shape[0])
        if built != weight.shape[0] and not weights.classes_chosen:
            raise checkpoints.CheckpointError(
                f"{weights.file} has {weight.shape[0]} classes and the model {built}: give "
                f"num_classes={weight.shape[0]} to use them, or num_classes={built} to start a new classifier"
            )
    stems = getattr(model, "_traits", {}).get("first_conv") or cfg.get("first_conv")
    for stem in (stems,) if isinstance(stems, str) else stems or ():
        weight, module = found.get(f"{stem}.weight"), model.get_submodule(stem)
        if isinstance(weight, torch.Tensor) and isinstance(module, nn.Conv2d) and cfg.get("input_size"):
            cfg["input_size"] = (weight.shape[1] * module.groups, *cfg["input_size"][1:])
    # timm loads loosely once the number of classes differs, so what else is missing must be found here.
    missing = [name for name in own if name not in found and not name.startswith(tuple(f"{head}." for head in heads))]
    if missing:
        raise checkpoints.CheckpointError(
            f"{weights.file} does not fit {type(model).__name__}: it lacks {', '.join(missing[:3])}"
            + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        )
    return found
