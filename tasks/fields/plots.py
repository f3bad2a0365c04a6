"""Figures of predicted fields: panels, spectra, and errors of roll-outs."""

from collections.abc import Mapping
from typing import Any

import torch
from matplotlib.figure import Figure  # not pyplot, whose backend belongs to the user
from matplotlib.ticker import MaxNLocator, NullFormatter, ScalarFormatter

__all__ = ["fields_figure", "rollout_figure", "spectrum_figure"]

_STYLES = {"truth": ("#1b2230", "-"), "prediction": ("#0072B2", "-"), "error": ("#D55E00", "--")}


def fields_figure(samples: Mapping[str, Mapping[str, torch.Tensor]], names: list[str] | None = None) -> Figure:
    """One row for each sample and output channel: inputs, truth, prediction and error.

    Args:
        samples: By title, `x` (1, C, *size), `y` and `prediction` (1, C', *size). Of three-dimensional fields the
            middle slice of the first axis is shown, of one-dimensional ones a curve.
        names: Names of the output channels.

    Returns:
        The figure; the error has a colour scale of its own.
    """
    rows = [(title, sample, chan) for title, sample in samples.items() for chan in range(sample["y"].shape[1])]
    inputs = max(sample["x"].shape[1] for sample in samples.values())
    figure = Figure(figsize=(2.6 * (inputs + 3), 2.5 * len(rows)))
    axes = figure.subplots(len(rows), inputs + 3, squeeze=False)
    for row, (title, sample, chan) in enumerate(rows):
        truth, prediction = sample["y"][0, chan], sample["prediction"][0, chan]
        what = f" {names[chan]}" if names else ""
        limits = (float(truth.min()), float(truth.max()))
        panels: list[Any] = [(f"input {i}" if inputs > 1 else "input", x, None) for i, x in enumerate(sample["x"][0])]
        panels += [(f"truth{what}", truth, limits), (f"prediction{what}", prediction, limits)]
        panels += [("error", prediction - truth, None)]
        for axis, (label, field, scale) in zip(axes[row], panels, strict=False):
            _panel(figure, axis, field, scale, label == "error")
            axis.set_title(label)
        axes[row, 0].set_ylabel(title)
    figure.tight_layout()
    return figure


def _panel(figure: Figure, axis: Any, field: torch.Tensor, limits: tuple[float, float] | None, signed: bool) -> None:
    if field.ndim == 3:
        field = field[len(field) // 2]
    values = field.detach().float().cpu().numpy()
    if values.ndim == 1:
        axis.plot(values, color="#0072B2", linewidth=1.2)
        return
    least, most = limits or (float(values.min()), float(values.max()))
    if signed:
        most = max(abs(least), abs(most))
        least = -most
    image = axis.imshow(values.T, origin="lower", cmap="RdBu_r" if signed else "viridis", vmin=least, vmax=most)
    axis.set(xticks=[], yticks=[])
    figure.colorbar(image, ax=axis, fraction=0.046, pad=0.03)


def spectrum_figure(spectra: Mapping[str, torch.Tensor], names: list[str] | None = None) -> Figure:
    """One panel for each grid and channel: energy by wavenumber of truth, prediction and error.

    Args:
        spectra: By title, (3, C', shells), see `blockzoo.tasks.fields.losses.isotropic_spectrum`.
        names: Names of the channels.
    """
    panels = [(title, chan) for title, part in spectra.items() for chan in range(part.shape[1])]
    figure = Figure(figsize=(4.4 * len(panels), 3.4))
    for axis, (title, chan) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for (label, (colour, style)), energy in zip(_STYLES.items(), spectra[title][:, chan], strict=True):
            shown = energy[1:].float()
            k = torch.arange(1, len(shown) + 1)
            positive = shown > 0
            axis.loglog(k[positive].numpy(), shown[positive].numpy(), style, color=colour, label=label, linewidth=1.5)
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set(xlabel="wavenumber", ylabel="energy", title=f"{title} {names[chan]}" if names else title)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    figure.tight_layout()
    return figure


def rollout_figure(errors: Mapping[str, torch.Tensor]) -> Figure:
    """Relative L2 error over the instants of a roll-out, (T,) by title."""
    figure = Figure(figsize=(4.8, 3.4))
    axis = figure.subplots()
    for title, curve in errors.items():
        axis.plot(range(1, len(curve) + 1), curve.float().numpy(), marker=".", linewidth=1.6, label=title)
    axis.set(xlabel="steps of the model", ylabel="relative L2 error", ylim=(0, None))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    figure.tight_layout()
    return figure
