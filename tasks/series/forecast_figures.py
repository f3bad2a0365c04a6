"""Figures of probabilistic forecasts: calibration, and forecasts of a backtest with their intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

__all__ = ["draw_backtest", "draw_calibration"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#8a8a8a"


def draw_calibration(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], title: str = "") -> Figure:
    """How many targets were at or below each forecast quantile: on the diagonal, if forecasts are calibrated.

    Args:
        curves: By name, the quantiles' levels and the observed shares.
        title: Of the figure.
    """
    figure = Figure(figsize=(4.2, 4.0), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="calibrated")
    for i, (name, (levels, observed)) in enumerate(curves.items()):
        axis.plot(levels, observed, marker="o", markersize=4, color=COLOURS[i % len(COLOURS)], label=name)
    axis.set(xlabel="level of the quantile", ylabel="share of targets at or below", title=title)
    axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axis.legend(frameon=False, fontsize=8)
    return figure


def draw_backtest(
    index: np.ndarray,
    truth: np.ndarray,
    folds: Sequence[Mapping[str, Any]],
    title: str,
    label: str = "step",
    interval: str = "",
) -> Figure:
    """A series and what was forecast from each origin.

    Args:
        index: Dates or steps of the truth, (N,).
        truth: (N,), NaN where a value is missing.
        folds: For each method and origin: `method`, `index` and `forecast` (H,), and perhaps `lower` and `upper` (H,).
        title: Of the figure.
        label: Of the axis of time.
        interval: What the bands are, for the legend.
    """
    figure = Figure(figsize=(9.0, 3.4), layout="constrained")
    axis = figure.subplots()
    axis.plot(index, truth, color="black", linewidth=1.0, label="truth")
    methods = list(dict.fromkeys(fold["method"] for fold in folds))
    for fold in folds:
        colour = COLOURS[methods.index(fold["method"]) % len(COLOURS)]
        axis.plot(fold["index"], fold["forecast"], color=colour, linewidth=1.2, label=fold["method"])
        if fold.get("lower") is not None:
            axis.fill_between(fold["index"], fold["lower"], fold["upper"], color=colour, alpha=0.15, linewidth=0)
        axis.axvline(fold["index"][0], color=GREY, linewidth=0.5, linestyle=":")
    handles, names = axis.get_legend_handles_labels()
    unique = dict(zip(names, handles, strict=True))
    axis.legend(list(unique.values()), list(unique), frameon=False, fontsize=8, loc="upper left")
    axis.set(title=title + (f" ({interval})" if interval else ""), xlabel=label)
    figure.autofmt_xdate() if np.issubdtype(index.dtype, np.datetime64) else None
    return figure
