"""How a model expects its inputs; data modules and commands look it up here."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from timm.data import create_transform
from torch import nn

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "check_augmentation",
    "fit_channels",
    "image_transform",
    "input_channels",
    "wanted_inputs",
]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def input_channels(model: nn.Module) -> int:
    """Channels of a model's images or frames."""
    stated = getattr(model, "in_chans", None)
    if isinstance(stated, int):
        return stated
    for parameter in model.parameters():
        if parameter.ndim >= 4:  # the first convolution, whose weight is (out, in, *kernel)
            return int(parameter.shape[1])
    return int(getattr(model, "pretrained_cfg", {})["input_size"][0])


def fit_channels(values: Sequence[float], channels: int, name: str) -> tuple[float, ...]:
    """Adapt mean or deviation of each channel to another number of channels; grey images get the average.

    Raises:
        ValueError: There is no such number for each channel.
    """
    if len(values) == channels:
        return tuple(float(value) for value in values)
    if channels == 1:
        return (sum(values) / len(values),)
    if len(values) == 1:
        return tuple(float(values[0]) for _ in range(channels))
    raise ValueError(f"{name}={list(values)} has {len(values)} numbers, the model takes {channels} channels")


def check_augmentation(std: Sequence[float] | None, color_jitter: float, scale: Sequence[float] | None) -> None:
    """Check options that data modules of images and videos share.

    Args:
        std: Standard deviation of each channel, if it is given.
        color_jitter: Strength of colour jitter.
        scale: Least and largest share of the area that a crop takes, if there are such crops.

    Raises:
        ValueError: One is out of range; the message names it.
    """
    if std is not None and not all(value > 0 for value in std):
        raise ValueError(f"std={list(std)} must be numbers greater than 0")
    if color_jitter < 0:
        raise ValueError(f"color_jitter={color_jitter} must be 0 or more")
    if scale is not None and (len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1):
        raise ValueError(f"scale={list(scale)} must be the least and the largest share of the area, above 0, at most 1")


def image_transform(cfg: Mapping[str, Any], channels: int) -> Any:
    """The evaluation transform that weights expect.

    Args:
        cfg: The model's `pretrained_cfg`.
        channels: Channels of the images, see `input_channels`.
    """
    mean, std = (fit_channels(cfg[key], channels, key) for key in ("mean", "std"))
    options = {key: cfg[key] for key in ("interpolation", "crop_pct")}
    return create_transform(input_size=(channels, *cfg["input_size"][-2:]), mean=mean, std=std, **options)


def wanted_inputs(
    model: nn.Module, pretrained: bool = False, checkpoint: str | Path | None = None
) -> tuple[dict[str, Any], bool]:
    """How a model expects its inputs, in entries of `pretrained_cfg`, and whether its weights define them.

    Args:
        model: The model.
        pretrained: Whether it has the weights of its tag.
        checkpoint: The file of its weights. If a fit wrote it, the configuration stored there is used.

    Returns:
        The configuration with the model's own number of channels; and whether it comes from the weights, not only from
        the architecture.
    """
    cfg = dict(getattr(model, "pretrained_cfg", None) or {})
    stored = _stored_config(Path(checkpoint)) if checkpoint else {}
    cfg |= {key: value for key, value in stored.items() if value is not None}
    if cfg.get("input_size"):
        cfg["input_size"] = (input_channels(model), *cfg["input_size"][1:])
    return cfg, bool(stored) or (pretrained and not checkpoint)


def _stored_config(path: Path) -> dict[str, Any]:
    """The configuration that a fit wrote into a file of weights or beside it; empty if there is none."""
    text = None
    if path.suffix == ".safetensors" and path.is_file():
        try:
            with safe_open(path, "pt") as file:
                text = (file.metadata() or {}).get("config")
        except SafetensorError as error:
            raise ValueError(f"{path} is not a whole safetensors file: {error}") from error
    beside = [folder / "config.json" for folder in (path.parent, path.parent.parent)]
    if text is None and (found := next((file for file in beside if file.is_file()), None)):
        text = found.read_text(encoding="utf-8")
    try:
        stored = json.loads(text or "{}")
    except ValueError as error:
        raise ValueError(f"the configuration stored with {path} is not JSON: {error}") from error
    cfg = stored.get("pretrained_cfg") if isinstance(stored, dict) else None
    return cfg if isinstance(cfg, dict) else {}
