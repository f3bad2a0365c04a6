"""Figures of forecasts, filled gaps, anomaly scores, and of the images that TimesNet sees."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from blockzoo.layers.series.period import find_periods

__all__ = ["draw_anomalies", "draw_forecasts", "draw_imputations", "draw_periods", "typical", "with_gaps"]

BLUE, ORANGE, GREEN, GREY, RED = "#0072B2", "#D55E00", "#009E73", "#8a8a8a", "#CC0000"


def typical(errors: torch.Tensor, count: int) -> list[int]:
    """Indices of the errors (N,) at evenly spread quantiles from 0.1 to 0.9, so that the choice is fair."""
    order = errors.argsort()
    return [int(order[int(q * (len(order) - 1))]) for q in torch.linspace(0.1, 0.9, count).tolist()]


def _figure(rows: int, columns: int, width: float, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")  # not pyplot: the user's backend
    return figure, figure.subplots(rows, columns, squeeze=False)


def draw_forecasts(
    contexts: Sequence[torch.Tensor],
    futures: Sequence[torch.Tensor],
    forecasts: Sequence[torch.Tensor],
    titles: Sequence[str],
    references: Sequence[torch.Tensor] | None = None,
    reference_name: str = "seasonal naive",
) -> Figure:
    """Draw series with their true future and the forecasts, one panel for each.

    Args:
        contexts: The past of each series, (steps,), NaN where a value is missing.
        futures: True future of each series, (pred_len,), NaN where a value is missing.
        forecasts: (S, pred_len) of S seeds: their median, the band from their least to their largest value, and from
            five seeds on that of their quartiles.
        titles: Of the panels.
        references: Another forecast of each, (pred_len,).
        reference_name: Name of that forecast.
    """
    columns = min(2, len(titles))
    figure, axes = _figure(-(-len(titles) // columns), columns, 5.2, 2.4)
    for i, axis in enumerate(axes.flat):
        if i >= len(titles):
            axis.axis("off")
            continue
        past, future = contexts[i].numpy(), futures[i].numpy()
        ahead = np.arange(1, len(future) + 1)
        axis.plot(np.arange(1 - len(past), 1), past, color=GREY, label="past")
        axis.plot([0, *ahead], [past[-1], *future], color="black", label="what came")
        if references is not None:
            axis.plot(ahead, references[i].numpy(), color=GREEN, linestyle=":", label=reference_name)
        drawn = forecasts[i].numpy()
        if len(drawn) > 1:
            axis.fill_between(ahead, drawn.min(0), drawn.max(0), color=BLUE, alpha=0.18, label=f"{len(drawn)} seeds")
        if len(drawn) >= 5:
            axis.fill_between(ahead, *np.quantile(drawn, (0.25, 0.75), axis=0), color=BLUE, alpha=0.3)
        axis.plot(ahead, np.median(drawn, 0), color=BLUE, label="forecast" if len(drawn) == 1 else "median")
        axis.axvline(0, color=GREY, linewidth=0.8, linestyle="--")
        axis.set(title=titles[i], xlabel="steps from the last known value")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0, 0].legend(frameon=False, fontsize=8)
    return figure


def draw_imputations(
    x: torch.Tensor, hidden: torch.Tensor, output: torch.Tensor, names: Sequence[str], title: str = ""
) -> Figure:
    """Draw channels of one window: observed values, hidden values, and the reconstruction.

    Args:
        x: Values, (steps, C), NaN where missing from the data.
        hidden: Whether a value was hidden from the model, (steps, C).
        output: The reconstruction, (steps, C).
        names: Of the channels to draw, the first of C.
        title: Of the figure.
    """
    columns = min(2, len(names))
    figure, axes = _figure(-(-len(names) // columns), columns, 5.2, 2.0)
    steps = np.arange(len(x))
    for c, axis in enumerate(axes.flat):
        if c >= len(names):
            axis.axis("off")
            continue
        values, gone = x[:, c].numpy(), hidden[:, c].numpy() | np.isnan(x[:, c].numpy())
        axis.plot(steps, np.where(gone, np.nan, values), ".", color=GREY, markersize=3, label="shown")
        axis.plot(steps[gone], values[gone], "o", color="black", markersize=3, fillstyle="none", label="hidden")
        axis.plot(steps[gone], output[:, c].numpy()[gone], "x", color=ORANGE, markersize=4, label="filled in")
        axis.set(title=names[c], xlabel="step")
    axes[0, 0].legend(frameon=False, fontsize=8)
    figure.suptitle(title)
    return figure


def draw_anomalies(
    step: torch.Tensor,
    score: torch.Tensor,
    label: torch.Tensor,
    thresholds: dict[str, float],
    values: torch.Tensor | None = None,
) -> Figure:
    """A series and its anomaly scores over time.

    Args:
        step: Steps, (N,).
        score: (N,).
        label: Whether a step is anomalous, (N,).
        thresholds: By name.
        values: The series at these steps, (N, C), drawn above the scores, at most five channels.
    """
    figure, axes = _figure(1 if values is None else 2, 1, 9.0, 2.2)
    time = step.numpy()
    edges = np.flatnonzero(np.diff(label.numpy().astype(np.int8), prepend=0, append=0))
    for axis in axes[:, 0]:
        for first, end in zip(edges[::2], edges[1::2], strict=True):
            axis.axvspan(time[first] - 0.5, time[end - 1] + 0.5, color=RED, alpha=0.2, label="anomalous", linewidth=0)
    if values is not None:
        axes[0, 0].plot(time, values[:, :5].numpy(), linewidth=0.7)
        axes[0, 0].set(ylabel="series")
    axis = axes[-1, 0]
    axis.plot(time, score.clamp(min=max(float(score[score > 0].min()), 1e-12)).numpy(), color=BLUE, linewidth=0.7)
    for (name, value), style in zip(thresholds.items(), ("--", ":", "-."), strict=False):
        axis.axhline(value, color=ORANGE, linestyle=style, linewidth=1, label=f"threshold: {name}")
    axis.set(yscale="log", ylabel="score", xlabel="step")
    handles, names = axis.get_legend_handles_labels()
    unique = dict(zip(names, handles, strict=True))
    axis.legend(list(unique.values()), list(unique), frameon=False, fontsize=8, loc="upper left")
    return figure


@torch.no_grad()
def draw_periods(model: Any, x: torch.Tensor, titles: Sequence[str]) -> Figure:
    """Series as the first block of a TimesNet sees them: folded by their strongest periods.

    Args:
        model: A TimesNet.
        x: Inputs of the model, (B, seq_len, C).
        titles: One for each input.
    """
    tokens = model.embed(model._standardize(x)[0])
    tokens = model.extend(tokens.transpose(1, 2)).transpose(1, 2)
    periods, amplitude = find_periods(tokens, model.blocks[0].top_k, "sample")
    weights = amplitude.softmax(1)
    figure, axes = _figure(len(titles), 1 + periods.shape[1], 2.6, 2.1)
    for row, title in enumerate(titles):
        axes[row, 0].plot(x[row, :, :4].cpu().numpy(), linewidth=1.1)
        axes[row, 0].set(title=title, xlabel="step")
        signal = tokens[row].mean(-1).cpu()
        for column, period in enumerate(periods[row].tolist(), start=1):
            count = -(-len(signal) // period)
            image = np.full(count * period, np.nan)
            image[: len(signal)] = signal.numpy()
            axis = axes[row, column]
            axis.imshow(image.reshape(count, period), aspect="auto", cmap="viridis", interpolation="nearest")
            axis.set(title=f"period {period}, weight {weights[row, column - 1]:.2f}", xlabel="step in period")
            axis.set_ylabel("period")
            for one in (axis.xaxis, axis.yaxis):
                one.set_major_locator(MaxNLocator(integer=True))
    return figure


def with_gaps(values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Values, NaN where the mask of the same shape is 0."""
    return values if mask is None else torch.where(mask != 0, values, torch.nan)
