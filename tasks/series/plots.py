"""Figures of a test of a series task, in the run's folder."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure

from blockzoo.tasks.series.anomaly import SeriesAnomaly
from blockzoo.tasks.series.figures import draw_anomalies, draw_forecasts, draw_imputations, draw_periods
from blockzoo.tasks.series.forecasting import SeriesForecasting
from blockzoo.tasks.series.imputation import SeriesImputation
from blockzoo.tasks.series.short_term import SeriesShortTerm

__all__ = ["SeriesPlots", "save_figure"]


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG; if anything breaks, a file that was there before is untouched."""
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, dpi=120, format="png")
    os.replace(temporary, path)


class SeriesPlots(Callback):
    """Draws, after a test, `forecast.png`, `imputation.png` or `anomaly.png`, and `periods.png`.

    The last one shows what TimesNet makes of the first test series: the embedded series folded by its periods.

    Args:
        channel: Index of the channel to draw of a forecast, among those that count.
    """

    def __init__(self, channel: int = -1) -> None:
        self.channel = channel

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, on the main process, if the run has a folder."""
        log_dir = trainer.log_dir if trainer.loggers else None
        if not trainer.is_global_zero or log_dir is None:
            return
        folder = Path(log_dir)
        folder.mkdir(parents=True, exist_ok=True)
        figures = self._figures(pl_module, getattr(trainer, "datamodule", None))
        for name, figure in figures.items():
            save_figure(figure, folder / name)

    def _figures(self, task: Any, data: Any) -> dict[str, Figure]:
        found: dict[str, Figure] = {}
        shown: torch.Tensor | None = None
        if isinstance(task, SeriesForecasting) and task.test_examples:
            found["forecast.png"] = self._forecasts(task)
        elif isinstance(task, SeriesShortTerm) and task.test_forecasts:
            first = task.test_forecasts[0]
            count = min(4, len(first["x"]))
            past = [first["x"][i, first["mask"][i, :, 0] > 0, 0] for i in range(count)]
            titles = [f"test series {int(first['index'][i])}" for i in range(count)]
            forecasts = [first["forecast"][i, :, 0][None] for i in range(count)]
            found["forecast.png"] = draw_forecasts(past, list(first["y"][:count, :, 0]), forecasts, titles)
            shown = first["x"][:2]
        elif isinstance(task, SeriesImputation) and task.test_examples:
            example = task.test_examples[-1]
            x = _with_gaps(example["x"], example.get("mask"))
            columns = data.table.columns if data is not None else [f"channel {i}" for i in range(x.shape[1])]
            title = f"{example['rate']:.1%} hidden, window from row {int(example['index'])}"
            found["imputation.png"] = draw_imputations(x, example["hidden"], example["output"], columns[:4], title)
            shown = example["x"][None]
        elif isinstance(task, SeriesAnomaly) and task.test_result:
            result = task.test_result
            ratio, calm = result["threshold"].tolist()
            limits = {f"{task.anomaly_ratio:g} % of all": ratio, f"{task.val_quantile:g} of validation": calm}
            values = data.datasets["test"].values[result["step"]]
            found["anomaly.png"] = draw_anomalies(result["step"], result["score"], result["label"], limits, values)
            shown = values[None, : task.model.seq_len] if len(values) >= task.model.seq_len else None
        if isinstance(task, SeriesForecasting) and task.test_examples and task.num_targets == task.model.in_chans:
            shown = task.test_examples[0]["x"][None]
        if shown is not None and hasattr(task.model, "embed"):
            titles = [f"test series {i}" for i in range(len(shown))]
            found["periods.png"] = draw_periods(task.model, shown.to(task.device), titles)
        return found

    def _forecasts(self, task: SeriesForecasting) -> Figure:
        past, future, forecasts, titles = [], [], [], []
        for example in task.test_examples:
            past.append(_with_gaps(example["x"], example.get("mask"))[:, self.channel])
            future.append(_with_gaps(example["y"], example.get("y_mask"))[:, self.channel])
            forecasts.append(example["forecast"][:, self.channel][None])
            titles.append(f"window from row {int(example['index'])}")
        return draw_forecasts(past, future, forecasts, titles)


def _with_gaps(values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    return values if mask is None else torch.where(mask != 0, values, torch.nan)
