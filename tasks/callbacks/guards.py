"""What happens when a run goes wrong or is stopped."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

__all__ = ["InterruptGuard", "NonFiniteLossError", "NonFiniteLossGuard", "last_checkpoint"]


class NonFiniteLossError(RuntimeError):
    """The training loss became NaN or infinite."""


def last_checkpoint(trainer: Trainer) -> str | None:
    """The most recent checkpoint that this run has written, if any."""
    callbacks = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
    paths = [path for c in callbacks for path in (c.last_model_path, c.best_model_path) if path and Path(path).exists()]
    return max(paths, key=lambda path: Path(path).stat().st_mtime) if paths else None


class NonFiniteLossGuard(Callback):
    """Stops before a loss that is not finite reaches the weights."""

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor) -> None:
        """Check the loss of this batch on every process at once, so that all stop together."""
        finite = trainer.strategy.reduce_boolean_decision(bool(loss.detach().isfinite().all()), all=True)
        if finite:
            return
        rates = ", ".join(f"{group['lr']:.3g}" for optimizer in trainer.optimizers for group in optimizer.param_groups)
        kept = last_checkpoint(trainer)
        raise NonFiniteLossError(
            f"the loss is {float(loss):g} in epoch {trainer.current_epoch}, step {trainer.global_step} (learning rates "
            f"{rates}); the weights are those before this batch. A lower learning rate, trainer.gradient_clip_val, a "
            f"warm-up, or precision 32-true may help. "
            + (f"The last good checkpoint is {kept}" if kept else "No checkpoint was written before")
        )


class InterruptGuard(Callback):
    """On SIGINT or SIGTERM, saves where the run stands and says how to go on."""

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save `interrupted.ckpt` beside the other checkpoints."""
        if not isinstance(exception, KeyboardInterrupt | SIGTERMException) or trainer.state.fn != "fit":
            return
        keeper: Any = trainer.checkpoint_callback
        folder = Path(getattr(keeper, "dirpath", None) or trainer.default_root_dir)
        path = folder / "interrupted.ckpt"
        trainer.save_checkpoint(path)
        name = "SIGTERM" if isinstance(exception, SIGTERMException) else "SIGINT"
        rank_zero_info(
            f"Stopped by {name} in epoch {trainer.current_epoch}, step {trainer.global_step}. Saved {path}; "
            f"to go on, repeat the command with --ckpt_path {path}"
        )
