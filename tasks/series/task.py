"""Base class of the tasks on series: calls of the model, masked errors, checks against the data."""

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure

from blockzoo.tasks.core.task import Task
from blockzoo.tasks.series.figures import draw_periods

__all__ = ["SeriesTask", "masked_mean"]


def masked_mean(values: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, int]:
    """Mean of the values whose mask is not 0, 0 if there is none; and how many they are."""
    if mask is None:
        return values.mean(), values.numel()
    seen = mask != 0
    count = int(seen.sum())
    return torch.where(seen, values, 0).sum() / max(count, 1), count


class SeriesTask(Task):
    """Base class of tasks whose metrics are means over all observed values of a stage, for any batch size.

    Args:
        *args: See `Task`.
        **kwargs: See `Task`.
    """

    unit: torch.Tensor
    offset: torch.Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.num_targets = int(self.model.in_chans)
        self.register_buffer("unit", torch.ones(self.num_targets), persistent=False)
        self.register_buffer("offset", torch.zeros(self.num_targets), persistent=False)

    def setup(self, stage: str) -> None:
        """Check that data and model fit, and copy the units of the channels.

        Raises:
            ValueError: They do not fit; the message says which option to change.
        """
        data = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and data is not None and data.datasets and "val" not in data.datasets:
            for callback in self.trainer.callbacks:  # type: ignore[attr-defined]  # which a trainer has
                if str(getattr(callback, "monitor", None)).startswith("val/"):
                    raise ValueError(
                        f"the data has no validation part, but {type(callback).__name__} watches {callback.monitor}; "
                        "give it a share, for example --data.ratios=[0.7,0.1,0.2], or watch train/loss"
                    )
        if data is None or not hasattr(data, "num_targets"):
            return
        found = {"in_chans": len(data.mean), "seq_len": data.seq_len, "pred_len": data.pred_len}
        if hasattr(data, "time_freq"):
            found["time_freq"] = data.time_freq
        found |= {name: getattr(data, name) for name in ("num_known", "num_static") if hasattr(data, name)}
        for name, value in found.items():
            have = getattr(self.model, name, 0)
            if have != value:
                columns = getattr(data.table, "columns", ())
                about = f" ({', '.join(columns[:6])}{', ..' * (len(columns) > 6)})" if name == "in_chans" else ""
                raise ValueError(
                    f"the data has {name}={value}{about}, but the model has {name}={have}; set them alike, for example "
                    f"--model.init_args.model_kwargs.{name}={'null' if value is None else value}"
                )
        self.num_targets = data.num_targets
        self.unit, self.offset = (torch.as_tensor(part).to(self.unit) for part in (data.std, data.mean))

    def call_model(self, batch: dict[str, torch.Tensor], mask: torch.Tensor | None = None) -> torch.Tensor:
        """The model's output (B, steps, C) for a batch, with the batch's mask unless another one is given."""
        inputs = {key: batch[key] for key in ("mask", "time_features", "known", "static") if key in batch}
        if mask is not None:
            inputs["mask"] = mask
        output: torch.Tensor = self.model(batch["x"], **inputs)
        return output

    def baselines(self, data: Any, period: int | None = None) -> dict[str, dict[str, float]]:
        """Metrics of simple methods on the test part, by method.

        Args:
            data: The data module, set up.
            period: Steps of a season; by default that of the training part.

        Raises:
            ValueError: The task has no simple methods.
        """
        raise ValueError(f"{type(self).__name__} has no baselines")

    def test_figures(self, data: Any, channel: int = -1) -> dict[str, Figure]:
        """Figures of the last test by file name; by default there are none.

        Args:
            data: The data module, or None.
            channel: Index of the channel to draw of a forecast, among those that count.
        """
        return {}

    @classmethod
    def report_table(cls, runs: Sequence[Any], data: Any) -> tuple[list[str], list[list[str]]] | None:
        """Columns and rows that `blockzoo series report` prints about several tested runs; none by default.

        Args:
            runs: Tasks of this class, each with the results of its test.
            data: The data module that they share.
        """
        return None

    @classmethod
    def report_figures(cls, runs: Sequence[Any], data: Any) -> dict[str, Figure]:
        """Figures of several tested runs of one config by file name, for `blockzoo series report`.

        Args:
            runs: Tasks of this class, each with the results of its test.
            data: The data module that they share.

        Raises:
            ValueError: There are none for tasks of this class.
        """
        raise ValueError(f"no figures for a {cls.__name__}; its run folder has its own")

    def period_figures(self, x: torch.Tensor) -> dict[str, Figure]:
        """`periods.png`: what TimesNet makes of series (N, seq_len, C), folded by its periods; none of other models."""
        if not hasattr(self.model, "embed"):
            return {}
        titles = [f"test series {i}" for i in range(len(x))]
        return {"periods.png": draw_periods(self.model, x.to(self.device), titles)}

    def units_of(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """By what values go back to their units, `y * unit + offset`: (C,), or (B, 1, C) where series differ."""
        if "unit" not in batch:
            return self.unit, self.offset
        return batch["unit"][:, None], batch["offset"][:, None]

    def targets(self, values: torch.Tensor) -> torch.Tensor:
        """The channels that count, the last `num_targets` of (B, steps, C)."""
        return values[..., values.shape[-1] - self.num_targets :]

    def log_mean(self, name: str, value: torch.Tensor, count: int, prog_bar: bool = False) -> None:
        """Log a batch's mean of `count` values, so that the stage's metric is the mean over all values."""
        options: dict[str, Any] = {"on_epoch": True, "on_step": False, "sync_dist": True, "add_dataloader_idx": False}
        self.log(name, value, batch_size=count, prog_bar=prog_bar, **options)

    def log_errors(
        self,
        stage: str,
        error: torch.Tensor,
        mask: torch.Tensor | None,
        ending: str = "",
        unit: torch.Tensor | None = None,
    ) -> None:
        """Log `mse` and `mae` of an error (B, steps, targets) of standardised values, and `mae_units` in units.

        Args:
            stage: "val" or "test".
            error: Of the targets.
            mask: Where it counts, or None.
            ending: Of the metrics' names.
            unit: Of all channels, see `units_of`; the data's by default.
        """
        kinds = {"mse": error.square(), "mae": error.abs()}
        kinds["mae_units"] = error.abs() * self.targets(self.unit if unit is None else unit)
        for name, values in kinds.items():
            value, count = masked_mean(values, mask)
            self.log_mean(f"{stage}/{name}{ending}", value, count, prog_bar=name == "mse" and not ending)
