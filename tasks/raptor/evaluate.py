"""The demo's part on Raptors: a classifier as a dynamical system."""

from typing import Any

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

from blockzoo.tasks.core.pictures import STYLE, panels
from blockzoo.tasks.core.small_images import SHOWN, cifar10_sample, prediction_grid
from blockzoo.tasks.raptor import dynamics, figures

__all__ = ["evaluate_raptor"]


@torch.no_grad()
def evaluate_raptor(model: Any) -> tuple[float, list[tuple[str, str]]]:
    """Accuracy on 200 test images of CIFAR-10, and sections (heading, HTML) about the network's states."""
    images, x, labels = cifar10_sample(model)
    states = torch.stack(model.forward_trajectory(x), 1)
    probabilities = model.forward_head(model.vit.norm(states[:, -1])).softmax(-1)
    chosen = torch.arange(SHOWN) * (len(images) // SHOWN)
    last = F.normalize(model.vit.norm(states[chosen, -1]), dim=-1)
    near = (last[:, model.num_prefix_tokens :] @ last[:, 0, :, None]).squeeze(-1)
    low, high = near.amin(1, keepdim=True), near.amax(1, keepdim=True)
    side = model.vit.patch_embed.grid_size
    maps = ((near - low) / (high - low).clamp_min(1e-12)).unflatten(1, side)[:, None]
    maps = F.interpolate(maps, images.shape[-2:], mode="bilinear")[:, 0]
    names = model.pretrained_cfg["label_names"]
    words = (
        "Test images with the likeliest class and its probability (red: wrong), and beside each the patches whose last "
        "state points where that of the class token does (bright)."
    )
    grid = prediction_grid(images, labels, probabilities, chosen, names, maps, words)
    accuracy = (probabilities.argmax(1) == labels).double().mean().item()
    return accuracy, [("What it sees, and where patches agree", grid), ("The way there", _dynamics(model, states))]


def _dynamics(model: Any, states: torch.Tensor) -> str:
    groups = dynamics.group_slices(model.num_prefix_tokens, bool(model.vit.has_class_token))
    convergence = {name: dynamics.direction_convergence(states[:, :, part]) for name, part in groups.items()}
    speed = {name: dynamics.angular_speed(states[:, :, part]) for name, part in groups.items()}
    bounds = model.bounds[1:-1]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(8.4, 3), layout="constrained")
        figures.draw_groups(axes[0], convergence, "cosine to the final direction", bounds)
        figures.draw_groups(axes[1], speed, "angle of a step (radians)", bounds, 1)
    told = "; ".join(f"{name} from {float(c[0]):.2f} to 1" for name, c in convergence.items())
    steps = "; ".join(f"{name} {float(s.min()):.2f} to {float(s.max()):.2f}" for name, s in speed.items())
    half = ", ".join(f"{dynamics.half_rise(c):.1f} ({name})" for name, c in convergence.items())
    phases = " + ".join(str(high - low) for low, high in zip(model.bounds, model.bounds[1:], strict=False))
    return (
        f"<p>{len(model.blocks)} blocks stand for {model.depth} layers ({phases}; dotted lines: where the next one "
        f"takes over). Half of the turn towards the final direction is done at layer {half}.</p>"
        + panels(figure, [f"Cosine to the final direction over layers: {told}", f"Angle of each step: {steps}"])
    )
