"""Figures of a run."""

import csv
from pathlib import Path

from blockzoo.tasks.core.files import write_figure

__all__ = ["draw_curves"]


def draw_curves(
    metrics: Path, out: Path, monitor: str | None = None, mode: str = "min", title: str | None = None
) -> None:
    """Draw the learning curves of a `metrics.csv` of Lightning's `CSVLogger`, one panel for each metric.

    Args:
        metrics: The file; columns named `stage/name` are drawn over epochs.
        out: The PNG to write.
        monitor: The metric that chooses the best weights; its best epoch is marked.
        mode: Whether the best is its least ("min") or its largest value ("max").
        title: Title of the figure.
    """
    from matplotlib.figure import Figure  # not pyplot, whose backend belongs to the user

    with metrics.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = sorted({key.partition("/")[2] for row in rows for key in row if key.startswith(("train/", "val/"))})
    figure = Figure(figsize=(4.2 * max(len(names), 1), 3.4))
    for axis, name in zip(figure.subplots(1, max(len(names), 1), squeeze=False)[0], names, strict=False):
        for stage, colour in (("train", "#0072B2"), ("val", "#D55E00")):
            key = f"{stage}/{name}"
            points = [(int(row["epoch"]), float(row[key])) for row in rows if row.get(key)]
            if not points:
                continue
            axis.plot(
                *zip(*points, strict=True),
                color=colour,
                label=stage,
                linewidth=1.6,
                marker="." if len(points) < 3 else "",
            )
            if key == monitor:
                epoch, value = (min if mode == "min" else max)(points, key=lambda point: point[1])
                axis.plot(epoch, value, "o", color=colour, label=f"best: {value:.4g}, epoch {epoch}")
        axis.set(xlabel="epoch", ylabel=name)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    figure.suptitle(title or "")
    figure.tight_layout()
    write_figure(out, figure)
