"""The demo's part on series classification: evaluation on the real test set, and pictures."""

from importlib.resources import files
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.ticker import MaxNLocator

from blockzoo.layers.series.period import find_periods
from blockzoo.tasks.core.html_parts import table
from blockzoo.tasks.core.pictures import STYLE, panels, picture
from blockzoo.tasks.series.predict import classify, prepare
from blockzoo.tasks.series.ts_files import SeriesSet, read_series_set

__all__ = ["evaluate_japanese_vowels"]


def evaluate_japanese_vowels(model: Any) -> tuple[float, list[tuple[str, str]]]:
    """Accuracy of a classifier on the JapaneseVowels test set, and sections (heading, HTML) about it."""
    series = read_series_set(str(files("blockzoo.tasks.series") / "japanese_vowels.safetensors"), "test")
    x, mask = prepare(model, series)
    probabilities = classify(model, x, mask)
    correct = probabilities.argmax(1) == series.labels
    sections = [
        ("Which speaker is it?", _confusion(series, probabilities)),
        ("The periods that the model sees", _periods(model, x, mask, series)),
        ("Predictions", _predictions(series, probabilities)),
    ]
    return correct.double().mean().item(), sections


def _confusion(series: SeriesSet, probabilities: torch.Tensor) -> str:
    count = len(series.class_names)
    predicted = probabilities.argmax(1)
    matrix = torch.zeros(count, count, dtype=torch.long)
    for true, guess in zip(series.labels, predicted, strict=True):
        matrix[true, guess] += 1
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(4.2, 3.9))
        share = matrix / matrix.sum(1, keepdim=True).clamp(min=1)
        axis.imshow(share.numpy(), cmap="Blues", vmin=0, vmax=1)
        for i in range(count):
            for j in range(count):
                if matrix[i, j]:
                    colour = "#fefefe" if share[i, j] > 0.5 else "#111111"
                    axis.text(j, i, str(int(matrix[i, j])), ha="center", va="center", color=colour)
        axis.set_xticks(range(count), series.class_names)
        axis.set_yticks(range(count), series.class_names)
        axis.set(xlabel="predicted speaker", ylabel="true speaker", title="Test series by speaker")
    wrong = int((predicted != series.labels).sum())
    alt = f"Confusion matrix of {count} speakers: {len(series) - wrong} of {len(series)} test series are right."
    text = (
        f"<p>Nine men said two vowels, each recording is a series of 12 spectral coefficients. Of {len(series)} "
        f"recordings that training never saw, {wrong} are given to the wrong speaker.</p>"
    )
    return text + picture(figure, alt)


@torch.no_grad()
def _periods(model: Any, x: torch.Tensor, mask: torch.Tensor, series: SeriesSet) -> str:
    """Three test series, and what the first block makes of each: its embedding, folded by its strongest periods."""
    chosen = [int((series.labels == label).nonzero()[0]) for label in (0, 3, 6)]
    tokens = model.embed(x[chosen])
    periods, amplitude = find_periods(tokens, model.blocks[0].top_k, "sample")
    weights = amplitude.softmax(1)
    columns = 1 + periods.shape[1]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(len(chosen), columns)
        told: list[tuple[int, str]] = []
        for row, index in enumerate(chosen):
            told.append((index, ", four of its coefficients"))
            length = int(mask[index].sum())
            axes[row, 0].plot(x[index, :length, :4].numpy(), linewidth=1.2)
            axes[row, 0].set_title(f"speaker {series.class_names[int(series.labels[index])]}, test series {index}")
            axes[row, 0].set(xlabel="step", ylabel="coefficients 1 to 4")
            signal = tokens[row].mean(-1)
            for column, period in enumerate(periods[row].tolist(), start=1):
                rows = -(-len(signal) // period)
                image = np.full(rows * period, np.nan)
                image[: len(signal)] = signal.numpy()
                axis = axes[row, column]
                axis.imshow(image.reshape(rows, period), aspect="auto", cmap="viridis")
                axis.set_title(f"period {period}, weight {weights[row, column - 1]:.2f}")
                told.append((index, f", folded by the period {period}"))
                axis.set(xlabel="step in period", ylabel="period")
                axis.xaxis.set_major_locator(MaxNLocator(integer=True))
                axis.set_yticks(range(rows))
    alts = [f"Test series {index}{axis}" for index, axis in told]
    text = (
        "<p>TimesNet looks for the strongest frequencies of a series, folds it by each period into an image, and "
        "convolves the images. First: four of the twelve coefficients. Then: the mean of the embedded series (padding "
        "included), folded by the periods that the first block chose, strongest first.</p>"
    )
    return text + panels(figure, alts, (2.1, 1.9), columns)


def _predictions(series: SeriesSet, probabilities: torch.Tensor) -> str:
    wrong = (probabilities.argmax(1) != series.labels).nonzero().squeeze(1).tolist()
    right = [i for i in range(0, len(series), 100) if i not in wrong]
    rows, marks = [], ["right"] * len(right) + ["wrong"] * len(wrong)
    for index, mark in zip(right + wrong, marks, strict=True):
        best = probabilities[index].topk(2)
        names = [series.class_names[int(i)] for i in best.indices]
        true = series.class_names[int(series.labels[index])]
        rows.append([str(index), true, *(f"{n} ({p:.3f})" for n, p in zip(names, best.values, strict=True)), mark])
    text = f"<p>A few test series, and all {len(wrong)} that are wrong, with the model's probability of each guess.</p>"
    columns = ("test series", "speaker", "first guess", "second guess", "result")
    return text + table(columns, rows, "Predictions for some test series", marks)
