"""The demo's part on image classifiers: evaluation on packaged test images, and pictures."""

from typing import Any

import matplotlib.pyplot as plt
import torch

from blockzoo.tasks.core.pictures import STYLE, picture
from blockzoo.tasks.core.small_images import SHOWN, cifar10_sample, prediction_grid
from blockzoo.tasks.images.cam import class_activation_map

__all__ = ["evaluate_cifar10"]


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
