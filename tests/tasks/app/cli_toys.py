"""Tasks, data and callbacks that configs in the tests name by class path."""

import signal
from typing import Any

import torch
from lightning.pytorch import Callback

from blockzoo.tasks.series.classification import SeriesClassification


class Recording(SeriesClassification):
    """Keeps the loss of each training step."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.losses: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        self.losses.append(float(loss.detach()))
        return loss


class Poisoned(Recording):
    """Its loss becomes NaN, in one process, from a given step on."""

    def __init__(self, *args: Any, poison_step: int = 5, poison_rank: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.poison_step = poison_step
        self.poison_rank = poison_rank

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        bad = self.global_step >= self.poison_step and self.global_rank == self.poison_rank
        return loss * float("nan") if bad else loss


class Signalled(Callback):
    """Sends one process a signal when training, validation or prediction reaches a batch of an epoch."""

    def __init__(
        self, name: str = "SIGTERM", epoch: int = 1, batch: int = 2, stage: str = "train", rank: int = 0, times: int = 1
    ) -> None:
        self.signal = signal.Signals[name]
        self.epoch, self.batch, self.stage, self.rank, self.times = epoch, batch, stage, rank, times

    def _send(self, trainer: Any, stage: str, batch_idx: int) -> None:
        now = (stage, trainer.current_epoch, batch_idx, trainer.global_rank)
        for _ in range(self.times if now == (self.stage, self.epoch, self.batch, self.rank) else 0):
            signal.raise_signal(self.signal)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._send(trainer, "train", batch_idx)

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, *args: Any) -> None:
        if not trainer.sanity_checking:
            self._send(trainer, "validation", batch_idx)

    def on_predict_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, *args: Any) -> None:
        self._send(trainer, "predict", batch_idx)


class Heavy(Callback):
    """Makes checkpoints of the second epoch so large that writing one takes a while, and says when that starts."""

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if trainer.current_epoch > 0:
            checkpoint["ballast"] = torch.zeros(150_000_000)
            print("writing", flush=True)


class Broken(SeriesClassification):
    """Has a bug."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        raise RuntimeError("a bug in a task")


class NeedsMissing(Callback):
    """Wants a package that nobody has."""

    def __init__(self) -> None:
        import a_package_that_nobody_has  # noqa: F401
