"""The demo's part on image classifiers: evaluation on packaged test images, and pictures."""

import html
from importlib.resources import files
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from safetensors.torch import load_file

from blockzoo.tasks.core.pictures import STYLE, bitmap, coloured, picture, tiles
from blockzoo.tasks.images.cam import class_activation_map

__all__ = ["SHOWN", "cifar10_sample", "evaluate_cifar10", "prediction_grid"]

SHOWN = 12


def cifar10_sample(model: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """200 test images of CIFAR-10, twenty of each class: bytes (B, 3, 32, 32), as the model takes them, labels (B,)."""
    sample = load_file(str(files("blockzoo.tasks.core") / "cifar10_sample.safetensors"))
    cfg = model.pretrained_cfg
    mean, std = (torch.tensor(cfg[key]).reshape(1, -1, 1, 1) for key in ("mean", "std"))
    return sample["images"], (sample["images"].float() / 255 - mean) / std, sample["labels"]


@torch.no_grad()
def evaluate_cifar10(model: Any) -> tuple[float, list[tuple[str, str]]]:
    """Accuracy on 200 test images of CIFAR-10, and sections (heading, HTML) about it."""
    images, x, labels = cifar10_sample(model)
    probabilities = model(x).float().softmax(-1)
    chosen = torch.arange(SHOWN) * (len(images) // SHOWN)
    names = model.pretrained_cfg["label_names"]
    heat = class_activation_map(model, x[chosen])
    words = (
        "Test images with the likeliest class and its probability (red: wrong), and beside each the parts that speak "
        "for that class (Grad-CAM; bright is strong)."
    )
    grid = prediction_grid(images, labels, probabilities, chosen, names, heat, words)
    sections = [("What it sees, and where it looks", grid), ("By class", _bars(labels, probabilities, names))]
    return (probabilities.argmax(1) == labels).double().mean().item(), sections


def prediction_grid(
    images: torch.Tensor,
    labels: torch.Tensor,
    probabilities: torch.Tensor,
    chosen: torch.Tensor,
    names: list[str],
    heat: torch.Tensor,
    words: str,
) -> str:
    """HTML: the chosen images with predictions, beside each its map (H, W) in [0, 1], and what that is in words."""
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


def _bars(labels: torch.Tensor, probabilities: torch.Tensor, names: list[str]) -> str:
    right = (probabilities.argmax(1) == labels).double()
    shares = [float(right[labels == i].mean()) for i in range(len(names))]
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(4.8, 2.5))
        axis.bar(names, shares, color="#3b6fb6")
        axis.set_ylim(0, 1)
        axis.set_ylabel("share that is right")
        plt.setp(axis.get_xticklabels(), rotation=35, ha="right", rotation_mode="anchor")
    told = ", ".join(f"{name} {share:.0%}" for name, share in zip(names, shares, strict=True))
    return picture(figure, f"Share of test images that are right, by class: {told}")
