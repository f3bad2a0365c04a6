"""The packaged test images of CIFAR-10, and how predictions on small images are shown."""

import html
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from blockzoo.tasks.core.pictures import bitmap, coloured, tiles

__all__ = ["SHOWN", "cifar10_images", "cifar10_sample", "prediction_grid"]

SHOWN = 12
"""Images that a page shows."""


def cifar10_images() -> tuple[torch.Tensor, torch.Tensor]:
    """200 test images of CIFAR-10, twenty of each class: bytes (B, 3, 32, 32) and labels (B,)."""
    sample = load_file(str(files("blockzoo.tasks.core") / "cifar10_sample.safetensors"))
    return sample["images"], sample["labels"].long()


def cifar10_sample(model: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The packaged images: as bytes (B, 3, 32, 32), prepared for the model, and their labels (B,)."""
    images, labels = cifar10_images()
    cfg = model.pretrained_cfg
    mean, std = (torch.tensor(cfg[key]).reshape(1, -1, 1, 1) for key in ("mean", "std"))
    return images, (images.float() / 255 - mean) / std, labels


def prediction_grid(
    images: torch.Tensor,
    labels: torch.Tensor,
    probabilities: torch.Tensor,
    chosen: torch.Tensor,
    names: list[str],
    heat: torch.Tensor,
    words: str,
) -> str:
    """HTML of the chosen images with predictions; beside each, its map (H, W) in [0, 1] and a caption."""
    items = []
    for index, map_ in zip(chosen.tolist(), heat, strict=True):
        pixels = images[index].permute(1, 2, 0).numpy()
        glow = 0.45 * pixels + 0.55 * coloured(map_, 0, 1, "inferno")
        pair = np.concatenate([pixels, glow.round().astype(np.uint8)], 1)
        share, guess = probabilities[index].max(0)
        true, said = names[int(labels[index])], names[int(guess)]
        shown = bitmap(pair, f"A test image of the class {true}, taken for {said}, and its map", enlarge=3)
        mark = "right" if true == said else "wrong"
        caption = f'<b class="{mark}">{html.escape(said)}</b> {float(share):.0%}'
        items.append((shown, caption if mark == "right" else f"{caption}, is {html.escape(true)}"))
    return f"<p>{words}</p>{tiles(items, 4, 'pixels')}"
