"""Long-term forecasting of multivariate series."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from blockzoo.tasks.core.files import write_csv
from blockzoo.tasks.series.baselines import Scores, forecast_baselines, season_of
from blockzoo.tasks.series.figures import draw_forecasts, with_gaps
from blockzoo.tasks.series.probabilistic import crps_from_quantiles
from blockzoo.tasks.series.quantiles import ForecastTask, level_name
from blockzoo.tasks.series.task import masked_mean

__all__ = ["SeriesForecasting"]

_LOSSES: dict[str, Callable[..., torch.Tensor]] = {"mse": F.mse_loss, "mae": F.l1_loss, "huber": F.huber_loss}


class SeriesForecasting(ForecastTask):
    """Task that forecasts the next steps of a series from the steps before.

    Batches are those of `blockzoo.tasks.series.windows.Windows`. Logged in evaluation are `mse` and `mae` of
    standardised values, as papers report them, `mse_units` and `mae_units` in the units of the channels (averaged over
    channels, so they are meaningful only if the channels have the same unit), and `loss`; each over all observed target
    values of a stage at once. Missing targets do not count; missing inputs are passed to the model as its mask. A model
    with `quantiles` is trained by the loss "quantile"; what is logged of its quantiles, see `ForecastTask`.

    Args:
        loss: "mse", "mae" or "huber", of standardised values; or "quantile", twice the mean pinball loss of a model's
            quantiles, which for the median alone is the absolute error.
        **kwargs: See `Task`.
    """

    def __init__(self, *args: Any, loss: Literal["mse", "mae", "huber", "quantile"] = "mse", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if loss not in (*_LOSSES, "quantile"):
            raise ValueError(f"loss={loss!r} must be one of {', '.join(_LOSSES)}, quantile")
        self.check_loss(loss)
        self.loss = _LOSSES.get(loss)
        self.test_examples: list[dict[str, torch.Tensor]] = []

    def shared_step(self, batch: dict[str, torch.Tensor], stage: str) -> torch.Tensor:
        """See `Task.shared_step`."""
        output, target = self.targets(self.call_model(batch)), self.targets(batch["y"])
        forecast = self.median(output)
        mask = self.targets(batch["y_mask"]) if "y_mask" in batch else None
        if self.loss is None:
            values = crps_from_quantiles(output, target, self.levels)
        else:
            values = self.loss(forecast, target, reduction="none")
        loss, count = masked_mean(values, mask)
        self.log_mean(f"{stage}/loss", loss, count, prog_bar=True)
        if stage != "train":
            error = forecast - target
            unit = self.units_of(batch)[0]
            self.log_errors(stage, error, mask, unit=unit)
            squared, count = masked_mean((error * self.targets(unit)).square(), mask)
            self.log_mean(f"{stage}/mse_units", squared, count)
            self.add_quantiles(stage, self.in_units(output, batch), self.in_units(target, batch), mask)
        if stage == "test" and len(self.test_examples) < 4:
            kept = {"x": self.targets(batch["x"]), "y": target, "forecast": forecast, "index": batch["index"]}
            kept |= {"y_mask": mask} if mask is not None else {}
            kept |= {"mask": self.targets(batch["mask"])} if "mask" in batch else {}
            self.test_examples.append({key: value[0].detach().cpu() for key, value in kept.items()})
        return loss

    def baselines(self, data: Any, period: int | None = None) -> Scores:
        """See `SeriesTask.baselines`."""
        return forecast_baselines(data.datasets["test"], data.num_targets, period or season_of(data))

    def test_figures(self, data: Any, channel: int = -1) -> dict[str, Figure]:
        """See `SeriesTask.test_figures`."""
        if not self.test_examples:
            return {}
        past, future, forecasts, titles = [], [], [], []
        for example in self.test_examples:
            past.append(with_gaps(example["x"], example.get("mask"))[:, channel])
            future.append(with_gaps(example["y"], example.get("y_mask"))[:, channel])
            forecasts.append(example["forecast"][:, channel][None])
            titles.append(f"window from row {int(example['index'])}")
        found = {"forecast.png": draw_forecasts(past, future, forecasts, titles)}
        whole = self.num_targets == self.model.in_chans
        return {**found, **(self.period_figures(self.test_examples[0]["x"][None]) if whole else {})}

    def on_test_epoch_start(self) -> None:
        """Forget the examples of an earlier test."""
        self.test_examples = []

    def predict_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> dict[str, torch.Tensor]:
        """Forecasts in the channels' units (B, pred_len, targets), and the row of each input's first step (B,).

        A model with quantiles also gives `quantiles` (B, Q, pred_len, targets). With many series also the number of
        each one's series (B,).
        """
        output = self.in_units(self.targets(self.call_model(batch)), batch)
        found = {"index": batch["index"], "forecast": self.median(output)}
        found |= {"quantiles": output} if self.levels else {}
        return {**found, "series": batch["series"]} if "series" in batch else found

    def _known_series(self, data: Any, number: int) -> tuple[str, tuple[str, ...], np.ndarray, list[Any]]:
        """Name, targets' names, their values (steps, targets) and the dates or steps of a series of the test part."""
        names = getattr(data.datasets.get("predict", data.datasets.get("test")), "names", None)
        table = data.table if names is None else data.tables[names[number]]
        first = len(table.columns) - self.num_targets
        keys = [*range(len(table.values))] if table.dates is None else table.date_texts()
        return names[number] if names else table.path, table.columns[first:], table.values[:, first:], keys

    def write_predictions(self, batches: list[dict[str, torch.Tensor]], path: Path) -> Path:
        """Write forecasts with dates, names and truth: a CSV file with a row for each step of each channel.

        Its columns are `series` (its name, or the file), `window` (row of the input's first step), `date` (or `step`, a
        row of the series), `channel`, `forecast` and `truth`, empty where it is not known; values are in the channels'
        units. A model with quantiles adds a column for each, such as `q0.05`.

        Args:
            batches: See `Task.write_predictions`.
            path: The file without its suffix; missing folders are made.

        Returns:
            The file that was written.
        """
        data: Any = getattr(self.trainer, "datamodule", None)
        if getattr(data, "table", None) is None:
            return super().write_predictions(batches, path)
        dated = data.table.dates is not None
        rows: list[list[Any]] = [["series", "window", "date" if dated else "step", "channel", "forecast", "truth",
                                  *map(level_name, self.levels)]]  # fmt: skip
        shown: dict[int, tuple[str, tuple[str, ...], np.ndarray, list[Any]]] = {}
        for batch in batches:
            owners = batch.get("series", torch.zeros_like(batch["index"])).tolist()
            forecasts = batch["forecast"][..., None]
            if self.levels:
                forecasts = torch.cat([forecasts, batch["quantiles"].movedim(1, -1)], -1)
            for owner, start, forecast in zip(owners, batch["index"].tolist(), forecasts.tolist(), strict=True):
                if owner not in shown:
                    shown[owner] = self._known_series(data, owner)
                series, names, truth, keys = shown[owner]
                for step, values in enumerate(forecast, start=start + data.seq_len):
                    for name, (value, *more), known in zip(names, values, truth[step].tolist(), strict=True):
                        known = "" if np.isnan(known) else known
                        rows.append([series, start, keys[step], name, value, known, *more])
        path.parent.mkdir(parents=True, exist_ok=True)
        written = path.with_name(f"{path.name}.csv")
        write_csv(written, rows)
        return written
