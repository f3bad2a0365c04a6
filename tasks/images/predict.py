"""Classes of image files, for `blockzoo predict`."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from blockzoo.tasks.core.image_files import IMAGE_SUFFIXES, load_image
from blockzoo.tasks.core.predictions import classify_files, views_of_files
from blockzoo.tasks.core.transforms import image_transform, input_channels

__all__ = ["inputs_of", "predict"]


def _reader(model: Any) -> Callable[[Path], torch.Tensor]:
    """Make a function that reads a file as the model's input (1, C, H, W)."""
    channels = input_channels(model)
    transform: Any = image_transform(model.pretrained_cfg, channels)

    def read(file: Path) -> torch.Tensor:
        image: torch.Tensor = transform(load_image(file, channels))
        return image[None]

    return read


def predict(model: Any, files: list[str], args: argparse.Namespace) -> int:
    """Classify images, prepared as the model's configuration says; see `classify_files`."""
    return classify_files(model, files, args, "image", IMAGE_SUFFIXES, _reader(model))


def inputs_of(model: Any, path: str | Path, count: int) -> dict[str, torch.Tensor]:
    """Forward arguments from images of a folder, evenly spread over its files.

    Args:
        model: The model, whose configuration says how images are prepared.
        path: The folder, or one image.
        count: Largest number of images.

    Raises:
        ValueError: There are no images, or one cannot be read.
    """
    return {"x": views_of_files([str(path)], "image", IMAGE_SUFFIXES, _reader(model), count)}
