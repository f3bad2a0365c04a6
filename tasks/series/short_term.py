"""Short-term forecasting of many series, scored as in the M4 competition."""

from pathlib import Path
from typing import Any, Literal

import torch
from matplotlib.figure import Figure
from torchmetrics import MeanMetric

from blockzoo.tasks.core.files import write_csv
from blockzoo.tasks.series.baselines import Scores, many_series_baselines
from blockzoo.tasks.series.figures import draw_forecasts
from blockzoo.tasks.series.metrics import mase, owa, smape
from blockzoo.tasks.series.task import SeriesTask

__all__ = ["SeriesShortTerm"]

_MEANS = ("smape", "mase", "naive2_smape", "naive2_mase")


class SeriesShortTerm(SeriesTask):
    """Forecast the horizon of many series of one frequency.

    Batches are those of `blockzoo.tasks.series.competition.ManySeries`. Logged in evaluation are `smape` (per cent),
    `mase`, the same of Naive 2 as `naive2_smape` and `naive2_mase`, and `owa` against these, means over all series of a
    stage at once; series whose past never changes have no MASE and are left out of it and of OWA's MASE part.
    `blockzoo.tasks.series.report` combines the frequencies of M4.

    Args:
        loss: "smape", its denominator without gradient, as published; "mase", the absolute error over the mean absolute
            step of the input; or "mse" of values over the deviation of the input.
        **kwargs: See `Task`.
    """

    def __init__(self, *args: Any, loss: Literal["smape", "mase", "mse"] = "smape", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if loss not in ("smape", "mase", "mse"):
            raise ValueError(f"loss={loss!r} must be 'smape', 'mase' or 'mse'")
        self.loss = loss
        for stage in ("val", "test"):
            for name in _MEANS:
                setattr(self, f"{stage}_{name}", MeanMetric(nan_strategy="ignore"))
        self.groups = torch.nn.ModuleDict()
        self.test_forecasts: list[dict[str, torch.Tensor]] = []

    def shared_step(self, batch: dict[str, torch.Tensor], stage: str) -> torch.Tensor:
        """See `Task.shared_step`."""
        forecast, target, mask = self.forecast(batch)[..., 0], batch["y"][..., 0], batch["y_mask"][..., 0]
        loss = self._loss(forecast, target, mask, batch)
        self.log_mean(f"{stage}/loss", loss, int(mask.sum()), prog_bar=True)
        if stage == "train":
            return loss
        scores = {"smape": smape(forecast, target, mask), "mase": mase(forecast, target, batch["scale"], mask)}
        scores |= {name: batch[name] for name in _MEANS[2:]}
        for name in _MEANS:
            getattr(self, f"{stage}_{name}").update(scores[name].float())
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
        """Forecasts (B, pred_len, 1) in the series' units, their season put back in."""
        found = self.call_model(batch)
        return found * batch["season"][:, -found.shape[1] :] if "season" in batch else found

    def _loss(
        self, forecast: torch.Tensor, target: torch.Tensor, mask: torch.Tensor, batch: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        error = (forecast - target).abs()
        if self.loss == "smape":
            total = forecast.detach().abs() + target.abs()
            error = 200 * error / torch.where(total == 0, 1, total)
            if "group" in batch:  # horizons differ: each series counts as much
                return ((error * mask).sum(1) / mask.sum(1)).mean()
        else:
            x, seen = batch["x"][..., 0], batch["mask"][..., 0]
            both = seen[:, 1:] * seen[:, :-1]
            scale = ((x[:, 1:] - x[:, :-1]).abs() * both).sum(1) / both.sum(1).clamp(min=1)
            if self.loss == "mse":
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

    def on_test_epoch_start(self) -> None:
        """Forget the forecasts of an earlier test."""
        self.test_forecasts = []

    def on_validation_epoch_end(self) -> None:
        """Log the scores over all series."""
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        """Log the scores over all series."""
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
        """Forecasts (B, pred_len) in the series' units, and which series they belong to (B,)."""
        return {"index": batch["index"], "forecast": self.forecast(batch)[..., 0]}

    def write_predictions(self, batches: list[dict[str, torch.Tensor]], path: Path) -> Path:
        """Write forecasts with names and truth: a CSV file with a row for each step of each series.

        Its columns are `series`, `step` (from 1, behind the known part), `forecast` and `truth`.

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
        rows: list[list[Any]] = [["series", "step", "forecast", "truth"]]
        for batch in batches:
            for index, forecast in zip(batch["index"].tolist(), batch["forecast"].tolist(), strict=True):
                item = series[index]
                pairs = zip(forecast, item.future.tolist(), strict=False)  # its horizon may be shorter
                rows += [[item.name, step, value, known] for step, (value, known) in enumerate(pairs, start=1)]
        path.parent.mkdir(parents=True, exist_ok=True)
        written = path.with_name(f"{path.name}.csv")
        write_csv(written, rows)
        return written
