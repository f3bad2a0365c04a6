"""The demo's part on image classifiers: evaluation on packaged test images, and pictures."""

from importlib.resources import files
from typing import Any

import matplotlib.pyplot as plt
import torch
from safetensors.torch import load_file

from blockzoo.tasks.commands.cam import class_activation_map
from blockzoo.tasks.commands.pictures import STYLE, picture

__all__ = ["SHOWN", "cifar10_sample", "evaluate_cifar10", "prediction_grid"]

SHOWN = 12


def cifar10_sample(model: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """200 test images of CIFAR-10, twenty of each class: bytes (B, 3, 32, 32), as the model takes them, labels (B,)."""
    sample = load_file(str(files("blockzoo.tasks.data") / "cifar10_sample.safetensors"))
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
        "Test images with the likeliest class and its probability (red: wrong), and below each the parts that speak "
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
    """HTML: the chosen images with predictions, below each its map (H, W) in [0, 1], and what that is in words."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(4, SHOWN // 2, figsize=(9, 6.6))
        said = []
        for column, (index, map_) in enumerate(zip(chosen.tolist(), heat, strict=True)):
            row, place = 2 * (column // (SHOWN // 2)), column % (SHOWN // 2)
            pixels = images[index].permute(1, 2, 0).numpy()
            share, guess = probabilities[index].max(0)
            right = int(guess) == int(labels[index])
            axes[row, place].imshow(pixels)
            axes[row, place].set_title(
                f"{names[int(guess)]} {float(share):.0%}" + ("" if right else f"\n(is {names[int(labels[index])]})"),
                color="#1a7f37" if right else "#b42318",
            )
            axes[row + 1, place].imshow(pixels)
            axes[row + 1, place].imshow(map_.numpy(), cmap="inferno", alpha=0.55, vmin=0, vmax=1)
            said.append(f"{names[int(labels[index])]} taken for {names[int(guess)]}")
        for axis in axes.flat:
            axis.axis("off")
        figure.tight_layout()
    return f"<p>{words}</p>" + picture(figure, f"Test images with predictions and maps: {'; '.join(said)}")


def _bars(labels: torch.Tensor, probabilities: torch.Tensor, names: list[str]) -> str:
    right = (probabilities.argmax(1) == labels).double()
    shares = [float(right[labels == i].mean()) for i in range(len(names))]
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(6.4, 2.6))
        axis.bar(names, shares, color="#3b6fb6")
        axis.set_ylim(0, 1)
        axis.set_ylabel("share that is right")
        axis.tick_params(axis="x", rotation=35)
    told = ", ".join(f"{name} {share:.0%}" for name, share in zip(names, shares, strict=True))
    return picture(figure, f"Share of test images that are right, by class: {told}")
