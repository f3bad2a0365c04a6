"""Filling gaps in multivariate series."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from blockzoo.tasks.core.streams import stream
from blockzoo.tasks.series.task import SeriesTask, masked_mean

__all__ = ["SeriesImputation", "hide"]


def hide(shape: Sequence[int], rate: float, seed: int, index: int) -> torch.Tensor:
    """Which cells of one sample are hidden in evaluation: random cells, by the sample and not by its batch.

    Args:
        shape: (steps, channels).
        rate: Probability of each cell.
        seed: Of the whole evaluation.
        index: Of the sample, its first row.

    Returns:
        bool, of the shape.
    """
    drawn = stream(seed, round(rate * 1e6), index).random(tuple(shape), dtype=np.float32)
    return torch.from_numpy(drawn < rate)


class SeriesImputation(SeriesTask):
    """Reconstruct values that are hidden from the model, from the others.

    Batches are those of `blockzoo.tasks.series.windows.Windows` without targets. Of the observed values, each is hidden
    with a probability; values missing from the data stay missing and count nowhere. Loss and metrics are over hidden
    values alone: `mse` and `mae` of standardised ones and `mae_units`, means over the rates; of each rate by itself
    `mse_RATE` and so on. What is hidden in evaluation depends on the sample and `mask_seed` only.

    Args:
        mask_rates: Probabilities; training draws one for each sample, evaluation goes through all of them.
        mask_seed: Of evaluation.
        **kwargs: See `Task`.

    Raises:
        ValueError: A rate is not between 0 and 1.
    """

    def __init__(self, *args: Any, mask_rates: list[float] | None = None, mask_seed: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mask_rates = [0.125, 0.25, 0.375, 0.5] if mask_rates is None else list(mask_rates)
        if not self.mask_rates or not all(0 < rate < 1 for rate in self.mask_rates):
            raise ValueError(f"mask_rates={mask_rates} must be numbers between 0 and 1")
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
            self.log_errors(stage, error, counted)
            if len(self.mask_rates) > 1:
                self.log_errors(stage, error, counted, f"_{rate:g}")
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

    def on_test_epoch_start(self) -> None:
        """Forget the examples of an earlier test."""
        self.test_examples = []

    def predict_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> dict[str, torch.Tensor]:
        """Series in the channels' units, missing values filled in, (B, seq_len, C), and their first rows (B,)."""
        x, output = batch["x"], self.call_model(batch)
        if "mask" in batch:
            x = torch.where(batch["mask"] != 0, x, output)
        return {"index": batch["index"], "filled": x * self.unit + self.offset}
