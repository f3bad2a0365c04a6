"""Short-term forecasting of many series, scored as in the M4 competition."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from torchmetrics import MeanMetric

from blockzoo.tasks.core.files import write_csv
from blockzoo.tasks.series.baselines import Scores, many_series_baselines
from blockzoo.tasks.series.competition import ShortSeries
from blockzoo.tasks.series.figures import draw_forecasts, draw_periods, typical
from blockzoo.tasks.series.metrics import mase, mean_steps, owa, seasonal_naive, smape
from blockzoo.tasks.series.probabilistic import pinball_loss
from blockzoo.tasks.series.quantiles import ForecastTask, level_name

__all__ = ["SeriesShortTerm"]

_MEANS = ("smape", "mase", "naive2_smape", "naive2_mase")


class SeriesShortTerm(ForecastTask):
    """Task that forecasts the horizon of many series of one frequency.

    Batches are those of `blockzoo.tasks.series.competition.ManySeries`. Logged in evaluation are `smape` (per cent),
    `mase`, those of Naive 2 as `naive2_smape` and `naive2_mase`, and `owa` against these, means over all series of a
    stage at once; series whose past never changes have no MASE and are left out of it and of OWA's MASE part.
    `blockzoo.tasks.series.report` combines the frequencies of M4. A model with `quantiles` is trained by the loss
    "quantile"; what is logged of its quantiles, see `ForecastTask`.

    Args:
        loss: "smape", its denominator without gradient, as published; "mase", the absolute error over the mean absolute
            step of the input; "mse" of values over the deviation of the input; or "quantile", twice the mean pinball
            loss of a model's quantiles over the mean absolute step of the input.
        **kwargs: See `Task`.
    """

    def __init__(self, *args: Any, loss: Literal["smape", "mase", "mse", "quantile"] = "smape", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if loss not in ("smape", "mase", "mse", "quantile"):
            raise ValueError(f"loss={loss!r} must be 'smape', 'mase', 'mse' or 'quantile'")
        self.check_loss(loss)
        self.loss = loss
        for stage in ("val", "test"):
            for name in _MEANS:
                setattr(self, f"{stage}_{name}", MeanMetric(nan_strategy="ignore"))
        self.groups = torch.nn.ModuleDict()
        self.test_forecasts: list[dict[str, torch.Tensor]] = []

    def shared_step(self, batch: dict[str, torch.Tensor], stage: str) -> torch.Tensor:
        """See `Task.shared_step`."""
        output, target, mask = self.forecast(batch)[..., 0], batch["y"][..., 0], batch["y_mask"][..., 0]
        forecast = self.median(output)
        loss = self._loss(output, target, mask, batch)
        self.log_mean(f"{stage}/loss", loss, int(mask.sum()), prog_bar=True)
        if stage == "train":
            return loss
        scores = {"smape": smape(forecast, target, mask), "mase": mase(forecast, target, batch["scale"], mask)}
        scores |= {name: batch[name] for name in _MEANS[2:]}
        for name in _MEANS:
            getattr(self, f"{stage}_{name}").update(scores[name].float())
        self.add_quantiles(stage, output, target, mask)
        if stage == "test" and self.groups:
            for number in batch["group"].unique().tolist():
                metric: Any = self.groups[list(self.groups)[number]]
                metric.update(scores["smape"][batch["group"] == number].float())
        if stage == "test":
            past = batch["x"] * batch["season"][:, : -target.shape[1]] if "season" in batch else batch["x"]
            kept = {
                "x": past,
                "mask": batch["mask"],
                "y": batch["y"],
                "y_mask": batch["y_mask"],
                "forecast": forecast[..., None],
            }
            self.test_forecasts.append({key: value.cpu() for key, value in {**kept, "index": batch["index"]}.items()})
        return loss

    def setup(self, stage: str) -> None:
        """See `SeriesTask.setup`; the data may count its series in groups."""
        super().setup(stage)
        names = getattr(getattr(self.trainer, "datamodule", None), "groups", ())
        self.groups = torch.nn.ModuleDict({name: MeanMetric() for name in names}).to(self.device)

    def forecast(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Forecasts (B, pred_len, 1), or quantiles (B, Q, pred_len, 1), in the series' units, with their season."""
        found = self.call_model(batch)
        if "season" not in batch:
            return found
        season = batch["season"][:, -found.shape[-2] :]
        return found * (season[:, None] if self.levels else season)

    def _loss(
        self, forecast: torch.Tensor, target: torch.Tensor, mask: torch.Tensor, batch: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        if self.loss == "quantile":
            error = 2 * pinball_loss(forecast, target, self.levels).mean(1)
        else:
            error = (forecast - target).abs()
        if self.loss == "smape":
            total = forecast.detach().abs() + target.abs()
            error = 200 * error / torch.where(total == 0, 1, total)
            if "group" in batch:  # horizons differ: each series counts as much
                return ((error * mask).sum(1) / mask.sum(1)).mean()
        else:
            scale = mean_steps(batch["x"], batch["mask"])[:, 0]
            if self.loss == "mse":
                x, seen = batch["x"][..., 0], batch["mask"][..., 0]
                mean = (x * seen).sum(1) / seen.sum(1)
                scale = (((x - mean[:, None]).square() * seen).sum(1) / seen.sum(1)).sqrt()
            error = error / torch.where(scale > 0, scale, torch.inf)[:, None]
            error = error.square() if self.loss == "mse" else error
        return (error * mask).sum() / mask.sum()

    def baselines(self, data: Any, period: int | None = None) -> Scores:
        """See `SeriesTask.baselines`; the season is the data's unless one is given."""
        return many_series_baselines(data, period=period)

    def test_figures(self, data: Any, channel: int = -1) -> dict[str, Figure]:
        """See `SeriesTask.test_figures`."""
        if not self.test_forecasts:
            return {}
        first = self.test_forecasts[0]
        count = min(4, len(first["x"]))
        past = [first["x"][i, first["mask"][i, :, 0] > 0, 0] for i in range(count)]
        titles = [f"test series {int(first['index'][i])}" for i in range(count)]
        forecasts = [first["forecast"][i, :, 0][None] for i in range(count)]
        drawn = draw_forecasts(past, list(first["y"][:count, :, 0]), forecasts, titles)
        return {"forecast.png": drawn, **self.period_figures(first["x"][:2])}

    @classmethod
    def report_figures(cls, runs: Sequence[Any], data: Any) -> dict[str, Figure]:
        """Forecasts of all runs, for the series at the quantiles 0.1 to 0.9 of the error of their median."""
        forecasts, future, counted = _tested(runs)
        series = data.read()
        errors = smape(_median(forecasts), future.double(), counted)
        chosen = typical(errors, 6)
        past = [torch.from_numpy(series[i].history[-3 * data.pred_len :]) for i in chosen]
        reference = [torch.from_numpy(_naive(series[i], data.period)) for i in chosen]
        titles = [f"{series[i].name}, sMAPE {float(errors[i]):.1f} %" for i in chosen]
        ends = [len(series[i].future) for i in chosen]
        came = [future[i, :end] for i, end in zip(chosen, ends, strict=True)]
        shown = [forecasts[:, i, :end] for i, end in zip(chosen, ends, strict=True)]
        drawn = draw_forecasts(past, came, shown, titles, reference)
        inputs = torch.cat([part["x"] for part in runs[0].test_forecasts])[chosen[:3]]
        periods = draw_periods(runs[0].model.eval(), inputs, titles[:3])
        return {"forecasts.png": drawn, "periods.png": periods}

    @classmethod
    def report_table(cls, runs: Sequence[Any], data: Any) -> tuple[list[str], list[list[str]]]:
        """The sMAPE of each run's forecasts and of their median, over all series and over each group."""
        forecasts, future, counted = _tested(runs)
        groups = torch.tensor(
            [data.groups.index(item.group) if item.group in data.groups else -1 for item in data.read()]
        )
        named = [(f"run {i}", forecast) for i, forecast in enumerate(forecasts)]
        rows = []
        for name, forecast in [*named, (f"median of {len(named)}", _median(forecasts))]:
            errors = smape(forecast.double(), future.double(), counted)
            parts = [errors, *(errors[groups == i] for i in range(len(data.groups)))]
            rows.append([name, *(f"{float(part.mean()):.3f}" for part in parts)])
        return ["forecasts", "sMAPE", *(f"sMAPE, {group}" for group in data.groups)], rows

    def on_test_epoch_start(self) -> None:
        """Forget the forecasts of an earlier test."""
        self.test_forecasts = []

    def on_validation_epoch_end(self) -> None:
        """Log the scores over all series."""
        super().on_validation_epoch_end()
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        """Log the scores over all series."""
        super().on_test_epoch_end()
        self._log_scores("test")

    def _log_scores(self, stage: str) -> None:
        means = [float(getattr(self, f"{stage}_{name}").compute()) for name in _MEANS]
        for name in _MEANS:
            getattr(self, f"{stage}_{name}").reset()
        found = {**dict(zip(_MEANS, means, strict=True)), "owa": owa(*means)}
        counted: dict[str, Any] = dict(self.groups.items()) if stage == "test" else {}
        for group, metric in counted.items():
            found[f"smape_{group}"] = float(metric.compute())
            metric.reset()
        for name, value in found.items():
            self.log(f"{stage}/{name}", value, prog_bar=name == "smape", rank_zero_only=True)

    def predict_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> dict[str, torch.Tensor]:
        """Forecasts (B, pred_len) in the series' units, and which series they belong to (B,).

        A model with quantiles also gives `quantiles` (B, Q, pred_len).
        """
        output = self.forecast(batch)[..., 0]
        found = {"index": batch["index"], "forecast": self.median(output)}
        return {**found, "quantiles": output} if self.levels else found

    def write_predictions(self, batches: list[dict[str, torch.Tensor]], path: Path) -> Path:
        """Write forecasts with names and truth: a CSV file with a row for each step of each series.

        Its columns are `series`, `step` (from 1, after the known part), `forecast` and `truth`, and for a model with
        quantiles one for each, such as `q0.05`.

        Args:
            batches: See `Task.write_predictions`.
            path: The file without its suffix; missing folders are made.

        Returns:
            The file that was written.
        """
        data: Any = getattr(self.trainer, "datamodule", None)
        if data is None:
            return super().write_predictions(batches, path)
        series = data.read()
        rows: list[list[Any]] = [["series", "step", "forecast", "truth", *map(level_name, self.levels)]]
        for batch in batches:
            forecasts = batch["forecast"][..., None]
            if self.levels:
                forecasts = torch.cat([forecasts, batch["quantiles"].movedim(1, -1)], -1)
            for index, forecast in zip(batch["index"].tolist(), forecasts.tolist(), strict=True):
                item = series[index]
                pairs = zip(forecast, item.future.tolist(), strict=False)  # its horizon may be shorter
                rows += [
                    [item.name, step, value, known, *more]
                    for step, ((value, *more), known) in enumerate(pairs, start=1)
                ]
        path.parent.mkdir(parents=True, exist_ok=True)
        written = path.with_name(f"{path.name}.csv")
        write_csv(written, rows)
        return written


def _tested(runs: Sequence[Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Forecasts of tested runs (runs, N, steps), what came (N, steps), and which of its steps count (N, steps)."""
    forecasts = torch.stack([torch.cat([part["forecast"][..., 0] for part in task.test_forecasts]) for task in runs])
    future, counted = (torch.cat([part[key] for part in runs[0].test_forecasts])[..., 0] for key in ("y", "y_mask"))
    return forecasts, future, counted


def _median(forecasts: torch.Tensor) -> torch.Tensor:
    """Of runs (runs, ...), in float64; of an even number, the mean of the two in the middle."""
    return forecasts.double().quantile(0.5, dim=0)


def _naive(item: ShortSeries, period: int) -> np.ndarray:
    return seasonal_naive(item.history, len(item.future), period if item.period is None else item.period)
