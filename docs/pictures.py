"""Draw what the shipped image classifiers see, for the site: `python docs/pictures.py`.

For each model the first packaged test image of every class of CIFAR-10, and below it the parts that speak for the class
that the model names (Grad-CAM). Images are not chosen by the result; wrong answers are red.
"""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

import blockzoo
from blockzoo.tasks.core.small_images import cifar10_sample
from blockzoo.tasks.images.cam import class_activation_map

ROOT = Path(__file__).parents[1]
MODELS = ("emov2_cifar.cifar10", "nasnet_cifar.cifar10", "nextvit_cifar.cifar10")


def draw(name: str, path: Path) -> None:
    """Write the picture of a checkpoint."""
    model: Any = blockzoo.create_model(name, pretrained=True).eval()
    images, x, labels = cifar10_sample(model)
    names = model.pretrained_cfg["label_names"]
    chosen = torch.tensor([int((labels == label).nonzero()[0]) for label in range(len(names))])
    heat = class_activation_map(model, x[chosen])
    with torch.no_grad():
        probabilities = model(x[chosen]).softmax(-1)
    figure, axes = plt.subplots(2, len(names), figsize=(10, 2.7))
    for label, (above, below) in enumerate(axes.T):
        picture = torch.as_tensor(images[chosen[label]])
        picture = picture.permute(1, 2, 0) if picture.shape[0] == 3 else picture
        above.imshow(picture)
        above.set_title(names[label], fontsize=9)
        below.imshow(picture.float().mean(2), cmap="gray")
        below.imshow(torch.as_tensor(heat[label]), cmap="inferno", alpha=0.6)
        guess = int(probabilities[label].argmax())
        share = float(probabilities[label].max())
        color = "#1a7f37" if guess == label else "#b42318"
        below.set_xlabel(f"{names[guess]}\n{share:.0%}", fontsize=8, color=color)
        for axis in (above, below):
            axis.set(xticks=[], yticks=[])
    figure.tight_layout(pad=0.4)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def main() -> None:
    """Write `docs/pictures/MODEL.TAG.png` for each model."""
    folder = ROOT / "docs" / "pictures"
    folder.mkdir(exist_ok=True)
    for name in MODELS:
        draw(name, folder / f"{name}.png")


if __name__ == "__main__":
    main()
