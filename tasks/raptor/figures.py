"""Figures of `blockzoo.tasks.raptor.dynamics`, one for each quantity, drawn on axes of the caller."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

__all__ = ["draw_basins", "draw_by_layer", "draw_correction", "draw_eigenvalues", "draw_groups"]

COLOURS = {"cls": "#D55E00", "reg": "#009E73", "patch": "#0072B2"}


def _finish(axis: Any, ylabel: str, boundaries: Sequence[int]) -> None:
    for bound in boundaries:
        axis.axvline(bound, color="0.6", linewidth=1, linestyle=":")
    axis.set(xlabel="layer", ylabel=ylabel)
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False)


def draw_groups(
    axis: Any, values: Mapping[str, torch.Tensor], ylabel: str, boundaries: Sequence[int] = (), start: int = 0
) -> None:
    """A curve over layers for each group of tokens; phases end at dotted lines.

    Args:
        axis: A matplotlib axis to draw on.
        values: (n,) by group.
        ylabel: Name of the values.
        boundaries: The last layer of each phase but the final one.
        start: Layer of the first value.
    """
    for name, curve in values.items():
        layers = range(start, start + len(curve))
        axis.plot(layers, curve.tolist(), color=COLOURS.get(name), label=name, marker=".")
    _finish(axis, ylabel, boundaries)


def draw_by_layer(axis: Any, values: torch.Tensor, ylabel: str, boundaries: Sequence[int] = (), start: int = 0) -> None:
    """One curve over layers, see `draw_groups`."""
    axis.plot(range(start, start + len(values)), values.tolist(), color="#0072B2", marker=".")
    _finish(axis, ylabel, boundaries)


def draw_basins(axis: Any, basins: Mapping[str, torch.Tensor], boundaries: Sequence[int] = ()) -> None:
    """Accuracy of the nearest class mean, and angle within over angle between classes."""
    axis.plot(basins["accuracy"].tolist(), color="#0072B2", marker=".", label="nearest class mean, accuracy")
    axis.plot(basins["ratio"].tolist(), color="#D55E00", marker=".", label="angle within / between classes")
    _finish(axis, "", boundaries)


def draw_correction(
    axis: Any,
    ratios: Mapping[int, torch.Tensor],
    ylabel: str = "angle / angle when perturbed",
    total: int | None = None,
) -> None:
    """Draw the angle to the clean run after perturbations at several layers; below 1, the network corrects itself."""
    for layer, ratio in ratios.items():
        axis.plot(range(layer, layer + len(ratio)), ratio.tolist(), marker=".", label=f"at layer {layer}")
    axis.axhline(1, color="0.6", linewidth=1)
    if total is not None:
        axis.set_xlim(0, total)
    _finish(axis, ylabel, ())


def draw_eigenvalues(axis: Any, spectra: Mapping[str, torch.Tensor]) -> None:
    """Eigenvalues in the complex plane with the unit circle."""
    turn = np.linspace(0, 2 * np.pi, 200)
    axis.plot(np.cos(turn), np.sin(turn), color="0.6", linewidth=1)
    for name, values in spectra.items():
        found = values.detach().cpu().numpy()
        axis.scatter(found.real, found.imag, s=14, label=name)
    axis.set(xlabel="real", ylabel="imaginary", aspect="equal")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
