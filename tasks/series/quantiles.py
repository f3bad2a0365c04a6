"""What the forecasting tasks do with the quantiles that a model forecasts: loss, metrics, calibration."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torchmetrics import Metric

from blockzoo.tasks.core.files import write_csv, write_figure
from blockzoo.tasks.series.probabilistic import central_pairs, pinball_loss
from blockzoo.tasks.series.task import SeriesTask

__all__ = ["ForecastTask", "QuantileScores", "level_name"]


def level_name(level: float) -> str:
    """Name of the column of a quantile: "q0.05"."""
    return f"q{level:g}"


class QuantileScores(Metric):
    """Weighted quantile loss, calibration, coverage and width of forecast quantiles, over all values of a stage.

    Args:
        levels: Of the quantiles.
    """

    full_state_update = False

    def __init__(self, levels: Sequence[float]) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.pairs = central_pairs(self.levels)
        sizes = {"loss": len(self.levels), "below": len(self.levels), "inside": len(self.pairs),
                 "width": len(self.pairs), "total": 1, "count": 1}  # fmt: skip
        for name, size in sizes.items():
            self.add_state(name, torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")
        self.loss: torch.Tensor
        self.below: torch.Tensor
        self.inside: torch.Tensor
        self.width: torch.Tensor
        self.total: torch.Tensor
        self.count: torch.Tensor

    def update(self, quantiles: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None = None) -> None:
        """Add forecasts.

        Args:
            quantiles: (B, Q, *), in the unit in which widths are wanted.
            target: (B, *), in the same unit.
            mask: 1 where a target counts, (B, *); all by default.
        """
        quantiles, target = quantiles.detach().double(), target.detach().double()
        seen = torch.ones_like(target, dtype=torch.bool) if mask is None else mask != 0
        forecast, truth = quantiles.movedim(1, -1)[seen], target[seen]  # (N, Q), (N,)
        self.loss += pinball_loss(forecast, truth, self.levels).sum(0)
        self.below += (truth[:, None] <= forecast).sum(0)
        self.total += truth.abs().sum()
        self.count += len(truth)
        for i, (low, high) in enumerate(self.pairs.values()):
            self.inside[i] += ((forecast[:, low] <= truth) & (truth <= forecast[:, high])).sum()
            self.width[i] += (forecast[:, high] - forecast[:, low]).sum()

    def compute(self) -> dict[str, torch.Tensor]:
        """`wql`, and `coverage_90`, `width_90` and so on for each central interval; NaN where nothing was observed."""
        count = torch.where(self.count > 0, self.count, torch.nan)
        total = torch.where(self.total > 0, self.total, torch.nan)
        found = {"wql": (2 * self.loss / total).mean()}
        for i, coverage in enumerate(self.pairs):
            name = f"{100 * coverage:g}"
            found[f"coverage_{name}"] = (self.inside[i] / count)[0]
            found[f"width_{name}"] = (self.width[i] / count)[0]
        return found

    def observed(self) -> list[float]:
        """Share of the targets at or below each quantile; the levels themselves, if the forecasts are calibrated."""
        return [float(value) for value in self.below / torch.where(self.count > 0, self.count, torch.nan)]


class ForecastTask(SeriesTask):
    """A task whose model forecasts one value a step, or quantiles of it.

    The point forecast of a model with quantiles is their median. Logged in evaluation are then `wql`, the weighted
    quantile loss, and for each central interval, such as that of 0.05 to 0.95, `coverage_90`, the share of targets in
    it, and `width_90`, its mean width, all in the channels' units and over all observed values of a stage. After a test
    the run's folder has `calibration.csv` and `calibration.png`: how many targets were at or below each quantile.

    Args:
        *args: See `Task`.
        **kwargs: See `Task`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.levels: tuple[float, ...] = getattr(self.model, "quantiles", None) or ()
        for stage in ("val", "test") if self.levels else ():
            setattr(self, f"{stage}_quantiles", QuantileScores(self.levels))
        self.test_observed: list[float] = []

    def check_loss(self, loss: str) -> None:
        """Check that the loss trains what the model forecasts.

        Raises:
            ValueError: It does not.
        """
        if (loss == "quantile") == bool(self.levels):
            return
        if self.levels:
            raise ValueError(f"loss={loss!r} trains no quantiles, which the model forecasts; set loss=quantile")
        raise ValueError(
            "loss='quantile' needs a model that forecasts quantiles, for example "
            "--model.init_args.model_kwargs.quantiles=[0.05,0.1,0.25,0.5,0.75,0.9,0.95]"
        )

    def median(self, output: torch.Tensor) -> torch.Tensor:
        """The point forecast (B, *) of a model's output, which is that, or quantiles (B, Q, *)."""
        return output[:, self.levels.index(0.5)] if self.levels else output

    def in_units(self, values: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Standardised values (B, steps, targets), or quantiles (B, Q, steps, targets), in the targets' units."""
        unit, offset = (self.targets(part) for part in self.units_of(batch))
        if unit.ndim > 1 and values.ndim > 3:  # each series has its own
            unit, offset = unit[:, None], offset[:, None]
        return values * unit + offset

    def add_quantiles(
        self, stage: str, quantiles: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None
    ) -> None:
        """Count forecasts (B, Q, *) in the channels' units for the metrics of a stage, if the model has quantiles."""
        if self.levels and stage != "train":
            getattr(self, f"{stage}_quantiles").update(quantiles, target, mask)

    def log_quantiles(self, stage: str) -> None:
        """Log the metrics of a stage's quantiles, and begin anew."""
        if not self.levels:
            return
        scores: QuantileScores = getattr(self, f"{stage}_quantiles")
        for name, value in scores.compute().items():
            self.log(f"{stage}/{name}", value.float(), rank_zero_only=True)
        if stage == "test":
            self.test_observed = scores.observed()
        scores.reset()

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of quantiles over all values."""
        self.log_quantiles("val")

    def on_test_epoch_end(self) -> None:
        """Log the metrics of quantiles over all values."""
        self.log_quantiles("test")

    def write_report(self, folder: Path) -> None:
        """Write `calibration.csv` and `calibration.png` of the last test, if the model has quantiles."""
        if not self.test_observed:
            return
        from blockzoo.tasks.series.forecast_figures import draw_calibration  # matplotlib

        rows = [["level", "observed"], *zip(self.levels, self.test_observed, strict=True)]
        write_csv(folder / "calibration.csv", rows)
        write_figure(folder / "calibration.png", draw_calibration({"forecast": (self.levels, self.test_observed)}))
