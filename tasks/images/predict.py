"""Classes of image files, for `blockzoo predict`."""

import argparse
from pathlib import Path
from typing import Any

import torch

from blockzoo.tasks.core.image_files import IMAGE_SUFFIXES, load_image
from blockzoo.tasks.core.predictions import classify_files
from blockzoo.tasks.core.transforms import image_transform, input_channels

__all__ = ["predict"]


def predict(model: Any, files: list[str], args: argparse.Namespace) -> int:
    """Classify images, prepared as the model's configuration says; see `classify_files`."""
    channels = input_channels(model)
    transform: Any = image_transform(model.pretrained_cfg, channels)

    def read(file: Path) -> torch.Tensor:
        image: torch.Tensor = transform(load_image(file, channels))
        return image[None]

    return classify_files(model, files, args, "image", IMAGE_SUFFIXES, read)
