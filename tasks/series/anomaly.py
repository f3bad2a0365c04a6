"""Finding anomalies in multivariate series by how badly they are reconstructed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from matplotlib.figure import Figure

from blockzoo.tasks.series.alarms import write_threshold
from blockzoo.tasks.series.baselines import Scores, anomaly_baselines, season_of
from blockzoo.tasks.series.figures import draw_anomalies, draw_periods
from blockzoo.tasks.series.metrics import detection_scores, point_adjust, quantile, ranking_scores, step_scores
from blockzoo.tasks.series.range_metrics import affiliation_scores, range_scores, volume_scores
from blockzoo.tasks.series.task import SeriesTask, masked_mean

__all__ = ["SeriesAnomaly"]


class SeriesAnomaly(SeriesTask):
    """Task that finds anomalies: it learns to reconstruct a normal series, and a large error means an anomaly.

    Batches are those of `blockzoo.tasks.series.anomaly_files.AnomalyFiles`. Loss and `mse` are over observed values. A
    step's score is the squared error of standardised values, averaged over channels. Steps that are missing from the
    data's dates get no score, and do not count in thresholds and metrics. Logged in a test:

    - `auroc` and `auprc` of the scores, and `vus_roc` and `vus_pr`, which forgive detections a little beside an
      anomaly (see `volume_scores`), without a threshold;
    - `precision`, `recall` and `f1` of steps above a threshold that flags `anomaly_ratio` per cent of all steps, those
      of training, validation and test together, as in the literature (which lets it look at the test scores); and
      `precision_adjusted` and so on after `point_adjust`, the figures that the literature reports, which are too
      optimistic; `affiliation_precision`, `range_precision` and so on, which look at stretches (see
      `affiliation_scores` and `range_scores`);
    - the same with names that end in `_val` and `_val_adjusted`, with the `val_quantile` of the validation scores as
      threshold, for which nothing of the test part is used.

    Where no test step is anomalous, or all are, the figures that are undefined are not logged.

    Args:
        anomaly_ratio: Per cent.
        val_quantile: From 0 to 1.
        vus_window: Largest width over which labels fade out for `vus_roc` and `vus_pr`, in steps.
        **kwargs: See `Task`.

    Raises:
        ValueError: `anomaly_ratio`, `val_quantile` or `vus_window` is out of its range.
    """

    def __init__(
        self,
        *args: Any,
        anomaly_ratio: float = 1.0,
        val_quantile: float = 0.99,
        vus_window: int = 100,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if not 0 < anomaly_ratio < 100:
            raise ValueError(f"anomaly_ratio={anomaly_ratio} must be between 0 and 100 per cent")
        if not 0 <= val_quantile <= 1:
            raise ValueError(f"val_quantile={val_quantile} must be from 0 to 1")
        if vus_window < 0:
            raise ValueError(f"vus_window={vus_window} must be at least 0")
        self.anomaly_ratio, self.val_quantile, self.vus_window = anomaly_ratio, val_quantile, vus_window
        self._windows: list[tuple[torch.Tensor, ...]] = []
        self.test_result: dict[str, torch.Tensor] = {}

    def shared_step(self, batch: dict[str, torch.Tensor], stage: str) -> torch.Tensor:
        """See `Task.shared_step`."""
        loss, count = masked_mean((self.call_model(batch) - batch["x"]).square(), batch.get("mask"))
        self.log_mean(f"{stage}/loss", loss, count, prog_bar=True)
        return loss

    def score(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Mean squared error over the observed channels of each step (B, seq_len), 0 where nothing is observed."""
        error = (self.call_model(batch) - batch["x"]).square()
        if "mask" not in batch:
            return error.mean(-1)
        return (error * batch["mask"]).sum(-1) / batch["mask"].sum(-1).clamp(min=1)

    def test_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        """Scores of a batch of test windows."""
        self._windows.append(self._scored(batch))

    def _scored(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """First steps of windows (B,), scores of their steps and whether they count, both (B, seq_len)."""
        score = self.score(batch)
        return batch["index"], score, batch.get("step_mask", torch.ones_like(score))

    def baselines(self, data: Any, period: int | None = None) -> Scores:
        """See `SeriesTask.baselines`."""
        return anomaly_baselines(data, self.anomaly_ratio, self.val_quantile, period or season_of(data))

    def test_figures(self, data: Any, channel: int = -1) -> dict[str, Figure]:
        """See `SeriesTask.test_figures`."""
        if not self.test_result:
            return {}
        result = self.test_result
        ratio, calm = result["threshold"].tolist()
        limits = {f"{self.anomaly_ratio:g} % of all": ratio, f"{self.val_quantile:g} of validation": calm}
        values = data.datasets["test"].values[result["step"]]
        drawn = draw_anomalies(result["step"], result["score"], result["label"], limits, values)
        long = len(values) >= self.model.seq_len
        return {"anomaly.png": drawn, **(self.period_figures(values[None, : self.model.seq_len]) if long else {})}

    @classmethod
    def report_figures(cls, runs: Sequence[Any], data: Any) -> dict[str, Figure]:
        """The scores of the first run."""
        result = runs[0].test_result
        ratio, calm = result["threshold"].tolist()
        limits = {f"{runs[0].anomaly_ratio:g} % of all": ratio, f"{runs[0].val_quantile:g} of validation": calm}
        values = data.datasets["test"].values[result["step"]]
        drawn = draw_anomalies(result["step"], result["score"], result["label"], limits, values)
        periods = draw_periods(runs[0].model.eval(), values[None, : data.seq_len], ["first test window"])
        return {"anomalies.png": drawn, "periods.png": periods}

    def on_test_epoch_start(self) -> None:
        """Forget the scores of an earlier test."""
        self._windows = []

    def on_test_epoch_end(self) -> None:
        """Thresholds and metrics, over all steps at once."""
        windows = tuple(torch.cat([part[i] for part in self._windows]) for i in range(3))
        if self.trainer.world_size > 1:
            gathered: Any = self.all_gather(windows)
            windows = tuple(part.flatten(0, 1) for part in gathered)
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]  # which a test of a task always has
        parts = [self._scores_of(loader) for loader in data.threshold_dataloaders()]
        parts.append(step_scores(*windows))
        covered, score = parts[2]
        label = data.label[covered]
        everything = torch.cat([part[1] for part in parts])
        ratio = quantile(everything, 1 - self.anomaly_ratio / 100)
        calm = quantile(parts[1][1], self.val_quantile)
        found = {**ranking_scores(score, label), "mse": float(score.mean())}
        found |= volume_scores(score, label, self.vus_window)
        for ending, threshold in (("", ratio), ("_val", calm)):
            predicted = score > threshold
            for more, detected in (("", predicted), ("_adjusted", point_adjust(predicted, label))):
                found |= {f"{k}{ending}{more}": v for k, v in detection_scores(detected, label).items()}
            nearby = {**affiliation_scores(predicted, label), **range_scores(predicted, label)}
            found |= {f"{k}{ending}": v for k, v in nearby.items()}
        if not label.any():
            found = {"mse": found["mse"]}
        for name, value in found.items():
            if not np.isfinite(value):
                continue
            self.log(f"test/{name}", value, rank_zero_only=True, prog_bar=name in ("auroc", "f1"))
        self.test_result = {"step": covered, "score": score, "label": label, "threshold": torch.tensor([ratio, calm])}
        self._windows = []
        if not label.any():
            rank_zero_info(
                "no test step is anomalous: areas under curves, precision, recall and F1 are undefined and left out"
            )

    def write_report(self, folder: Path) -> None:
        """Write the threshold from the validation scores of the last test, for `blockzoo predict`."""
        if self.test_result:
            write_threshold(folder, self.val_quantile, float(self.test_result["threshold"][1]))

    @torch.no_grad()
    def calm_threshold(self, data: Any, share: float) -> float:
        """The quantile `share` of the scores of the validation part of data that are set up."""
        self.eval()
        return quantile(self._scores_of(data.threshold_dataloaders()[1])[1], share)

    def _scores_of(self, loader: Any) -> tuple[torch.Tensor, torch.Tensor]:
        windows = []
        for batch in loader:
            moved = self.transfer_batch_to_device(batch, self.device, 0)
            windows.append(self._scored(moved))
        return step_scores(*(torch.cat([part[i] for part in windows]) for i in range(3)))

    def predict_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> dict[str, torch.Tensor]:
        """Scores (B, seq_len), and the row of each window's first step (B,)."""
        return {"index": batch["index"], "score": self.score(batch)}
