"""Callback that lets drop path grow during a run."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from blockzoo.layers.conv.scheduled_drop_path import set_drop_path_progress

__all__ = ["ScheduledDropPathProgress"]


class ScheduledDropPathProgress(Callback):
    """Tells a model's `ScheduledDropPath` layers, before every step, how much of the training is done.

    Progress is the trainer's step over `steps`, so that a resumed run goes on where it was. Source: "Learning
    Transferable Architectures for Scalable Image Recognition" (2018), whose code takes 250,000 steps.

    Args:
        steps: Steps until the full rate is reached; those of the whole run by default.
    """

    def __init__(self, steps: int | None = None) -> None:
        if steps is not None and steps < 1:
            raise ValueError(f"steps={steps} must be at least 1")
        self.steps = steps

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the progress of this step."""
        steps = self.steps or max(1, int(trainer.estimated_stepping_batches))
        set_drop_path_progress(pl_module, min(1.0, trainer.global_step / steps))
