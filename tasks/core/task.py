"""Base class of all tasks: a model of the zoo, its weights, optimiser and schedule."""

import abc
import re
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable

from blockzoo import create_model
from blockzoo.tasks.core.files import write_csv
from blockzoo.tasks.core.optim import cosine_schedule, halving_schedule, parameter_groups, set_peak

__all__ = ["Task"]


class Task(LightningModule, abc.ABC):
    """Base class of tasks: a model with a loss and metrics.

    Subclasses implement `shared_step` and, where it makes sense, `predict_step`. Metrics are named `stage/name`.

    Args:
        model_name: Name for `blockzoo.create_model`, with its tag if it has one.
        model_kwargs: Its further arguments.
        pretrained: Start from the tag's weights.
        checkpoint_path: Start from the weights in this file, in our layout or a published one, or a run's checkpoint.
        optimizer: Makes the optimiser from parameter groups, for example `{class_path: torch.optim.AdamW, init_args:
            {lr: 1e-3}}` in a config.
        lr: Learning rate that replaces the optimiser's own; also what Lightning's `LearningRateFinder` sets.
        weight_decay: Decay of weights, instead of the optimiser's own; biases, norms and parameters that the model
            exempts have none.
        layer_decay: Factor of the learning rate from layer to layer, see `parameter_groups`.
        schedule: "cosine" or "constant" after the warm-up; its length is that of the run. Or "halving" with every epoch
            from the third on, without a warm-up.
        warmup_fraction: Share of the run in which the learning rate rises from 0.
        min_lr_ratio: Last learning rate of the cosine, as a share of its peak.
        freeze: Regular expressions; a parameter is not trained if one matches the start of its name.
        compile: Run the model through `torch.compile`.
    """

    def __init__(
        self,
        model_name: str,
        model_kwargs: dict[str, Any] | None = None,
        pretrained: bool = False,
        checkpoint_path: str | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr: float | None = None,
        weight_decay: float = 0.0,
        layer_decay: float | None = None,
        schedule: Literal["cosine", "constant", "halving"] = "cosine",
        warmup_fraction: float = 0.0,
        min_lr_ratio: float = 0.0,
        freeze: list[str] | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer"])
        if "_instantiator" in self.hparams:
            # The command line describes it in plain values; a function could not be in a checkpoint without code.
            self.save_hyperparameters()
        self.model_name = model_name
        self.model = create_model(
            model_name, pretrained=pretrained, checkpoint_path=checkpoint_path, **(model_kwargs or {})
        )
        self.optimizer_factory = optimizer
        self.lr = self._scheduled_lr = lr
        self.weight_decay = weight_decay
        self.layer_decay = layer_decay
        self.schedule = schedule
        self.warmup_fraction = warmup_fraction
        self.min_lr_ratio = min_lr_ratio
        self._freeze(freeze or [])
        if compile:
            # Graphs come in all sizes; one compiled for every size would be compiled for each batch.
            self.model.compile(dynamic=True if getattr(self.model, "modality", None) == "graph" else None)

    def _freeze(self, patterns: list[str]) -> None:
        names = [name for name, _ in self.model.named_parameters()]
        for pattern in patterns:
            if not any(re.match(pattern, name) for name in names):
                raise ValueError(f"freeze={pattern!r} matches no parameter; they are {', '.join(names)}")
        for name, parameter in self.model.named_parameters():
            if any(re.match(pattern, name) for pattern in patterns):
                parameter.requires_grad_(False)

    def configure_optimizers(self) -> Any:
        """The optimiser, over groups with and without weight decay, and its schedule by step."""
        groups = parameter_groups(self.model, self.weight_decay, self.layer_decay)
        optimizer = self.optimizer_factory(groups)
        for group in optimizer.param_groups if self.lr is not None else []:
            group["lr"] = self.lr
        self._scheduled_lr = self.lr
        if self.schedule == "constant" and not self.warmup_fraction and self.layer_decay is None:
            return optimizer
        if self.schedule == "halving":
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": halving_schedule(optimizer)}}
        last = 1.0 if self.schedule == "constant" else self.min_lr_ratio
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = cosine_schedule(optimizer, steps, self.warmup_fraction, last)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_start(self) -> None:
        """Pass the learning rate that `LearningRateFinder` found to the schedule, which was made before."""
        if self.lr is None or self.lr == self._scheduled_lr:
            return
        for config in self.trainer.lr_scheduler_configs:
            set_peak(config.scheduler, self.lr)

    @abc.abstractmethod
    def shared_step(self, batch: Any, stage: str) -> torch.Tensor:
        """Log the metrics of a batch and return its loss; `stage` is "train", "val" or "test"."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """One training batch."""
        return self.shared_step(batch, "train")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """One validation batch."""
        self.shared_step(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """One test batch."""
        self.shared_step(batch, "test")

    def write_predictions(self, batches: list[dict[str, torch.Tensor]], path: Path) -> Path:
        """Write the results of `predict_step` for all batches to a CSV file, with a row for each sample.

        Args:
            batches: Results of the batches, tensors (B, *) by name.
            path: The file without its suffix; missing folders are made.

        Returns:
            The file that was written.
        """
        columns = {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}
        cells = {key: value.reshape(len(value), -1).tolist() for key, value in columns.items()}
        names = [key if len(rows[0]) == 1 else f"{key}_{i}" for key, rows in cells.items() for i in range(len(rows[0]))]
        rows = ([value for row in rows for value in row] for rows in zip(*cells.values(), strict=True))
        path.parent.mkdir(parents=True, exist_ok=True)
        written = path.with_name(f"{path.name}.csv")
        write_csv(written, [names, *rows])
        return written

    def write_report(self, folder: Path) -> None:
        """Write figures and tables of the last test into a finished run's folder; by default there are none."""
