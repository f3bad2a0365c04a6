"""Filling gaps in multivariate series."""

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure

from blockzoo.tasks.series.baselines import Scores, imputation_baselines, season_of
from blockzoo.tasks.series.figures import draw_imputations, draw_periods, with_gaps
from blockzoo.tasks.series.task import SeriesTask, masked_mean
from blockzoo.tasks.series.windows import hide

__all__ = ["SeriesImputation"]


class SeriesImputation(SeriesTask):
    """Task that fills gaps: it reconstructs hidden values from the observed ones.

    Batches are those of `blockzoo.tasks.series.windows.Windows` without targets. Of the observed values, each is hidden
    with a probability; values missing from the data stay missing and do not count. Loss and metrics are only over
    hidden values: `mse` and `mae` of standardised ones and `mae_units`, means over the rates; of each single rate
    `mse_RATE` and so on. In evaluation, the hidden values depend only on the sample and `mask_seed`.

    Args:
        mask_rates: Probabilities; training draws one for each sample, evaluation goes through all of them.
        mask_seed: Seed of evaluation.
        **kwargs: See `Task`.

    Raises:
        ValueError: A rate is not between 0 and 1, or `mask_seed` is negative.
    """

    def __init__(self, *args: Any, mask_rates: list[float] | None = None, mask_seed: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mask_rates = [0.125, 0.25, 0.375, 0.5] if mask_rates is None else list(mask_rates)
        if not self.mask_rates or not all(0 < rate < 1 for rate in self.mask_rates):
            raise ValueError(f"mask_rates={mask_rates} must be numbers between 0 and 1")
        if mask_seed < 0:
            raise ValueError(f"mask_seed={mask_seed} must be at least 0")
        self.mask_seed = mask_seed
        self.test_examples: list[dict[str, torch.Tensor]] = []

    def shared_step(self, batch: dict[str, torch.Tensor], stage: str) -> torch.Tensor:
        """See `Task.shared_step`."""
        if stage == "train":
            rates = torch.tensor(self.mask_rates, device=self.device)
            drawn = rates[torch.randint(len(rates), (len(batch["x"]), 1, 1), device=self.device)]
            hidden = torch.rand_like(batch["x"]) <= drawn
            loss = self._reconstruct(batch, hidden, stage)[0]
            self.log_mean("train/loss", loss, len(batch["x"]), prog_bar=True)
            return loss
        losses = []
        for rate in self.mask_rates:
            hidden = torch.stack([hide(batch["x"].shape[1:], rate, self.mask_seed, int(i)) for i in batch["index"]]).to(
                self.device
            )
            loss, error, counted, output = self._reconstruct(batch, hidden, stage)
            losses.append(loss)
            self.log_mean(f"{stage}/loss", loss, int(counted.sum()), prog_bar=True)
            unit, _ = self.units_of(batch)
            self.log_errors(stage, error, counted, unit=unit)
            if len(self.mask_rates) > 1:
                self.log_errors(stage, error, counted, f"_{rate:g}", unit)
            if stage == "test" and len(self.test_examples) < len(self.mask_rates):
                kept = {"x": batch["x"], "hidden": hidden, "output": output, "index": batch["index"]}
                kept |= {"mask": batch["mask"]} if "mask" in batch else {}
                example = {key: value[0].detach().cpu() for key, value in kept.items()}
                self.test_examples.append({**example, "rate": torch.tensor(rate)})
        return torch.stack(losses).mean()

    def _reconstruct(
        self, batch: dict[str, torch.Tensor], hidden: torch.Tensor, stage: str
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Loss, error and what counts of it, both (B, seq_len, targets), and the output (B, seq_len, C)."""
        seen = batch["mask"] != 0 if "mask" in batch else torch.ones_like(hidden)
        output = self.call_model(batch, (seen & ~hidden).to(batch["x"].dtype))
        counted = self.targets(seen & hidden)
        error = self.targets(output - batch["x"])
        return masked_mean(error.square(), counted)[0], error, counted, output

    def baselines(self, data: Any, period: int | None = None) -> Scores:
        """See `SeriesTask.baselines`."""
        period = season_of(data) if period is None else period
        return imputation_baselines(data.datasets["test"], data.num_targets, self.mask_rates, self.mask_seed, period)

    def test_figures(self, data: Any, channel: int = -1) -> dict[str, Figure]:
        """See `SeriesTask.test_figures`."""
        if not self.test_examples:
            return {}
        example = self.test_examples[-1]
        x = with_gaps(example["x"], example.get("mask"))
        columns = data.table.columns if data is not None else [f"channel {i}" for i in range(x.shape[1])]
        title = f"{example['rate']:.1%} hidden, window from row {int(example['index'])}"
        drawn = draw_imputations(x, example["hidden"], example["output"], columns[:4], title)
        return {"imputation.png": drawn, **self.period_figures(example["x"][None])}

    @classmethod
    def report_figures(cls, runs: Sequence[Any], data: Any) -> dict[str, Figure]:
        """What the first run fills into gaps."""
        example = runs[0].test_examples[-1]
        title = f"{float(example['rate']):.1%} hidden, window from row {int(example['index'])}"
        drawn = draw_imputations(example["x"], example["hidden"], example["output"], data.table.columns[:6], title)
        shown = data.datasets["test"].values[int(example["index"]) :][: data.seq_len][None]
        periods = draw_periods(runs[0].model.eval(), shown, ["standardised channels 0 to 3"])
        return {"imputations.png": drawn, "periods.png": periods}

    def on_test_epoch_start(self) -> None:
        """Forget the examples of an earlier test."""
        self.test_examples = []

    def predict_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> dict[str, torch.Tensor]:
        """Series in the channels' units, missing values filled in, (B, seq_len, C), and their first rows (B,)."""
        x, output = batch["x"], self.call_model(batch)
        if "mask" in batch:
            x = torch.where(batch["mask"] != 0, x, output)
        unit, offset = self.units_of(batch)
        return {"index": batch["index"], "filled": x * unit + offset}
