"""Callbacks for runs that fail, are stopped, or are resumed."""

import os
import random
import shlex
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

__all__ = ["ExactResume", "InterruptGuard", "NonFiniteLossError", "NonFiniteLossGuard", "last_checkpoint"]


class NonFiniteLossError(RuntimeError):
    """The training loss became NaN or infinite."""


def last_checkpoint(trainer: Trainer) -> str | None:
    """The most recent checkpoint that this run has written, if any."""
    callbacks = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
    paths = [path for c in callbacks for path in (c.last_model_path, c.best_model_path) if path and Path(path).exists()]
    return max(paths, key=lambda path: Path(path).stat().st_mtime) if paths else None


class NonFiniteLossGuard(Callback):
    """Stops the run before a loss that is not finite reaches the weights."""

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor) -> None:
        """Check the losses of all processes in every process, so that all stop together.

        Raises:
            NonFiniteLossError: One of them is NaN or infinite.
        """
        if trainer.strategy.reduce_boolean_decision(bool(loss.detach().isfinite()), all=True):
            return
        losses = trainer.strategy.all_gather(loss.detach()).flatten()
        rates = sorted({f"{group['lr']:.3g}" for optimizer in trainer.optimizers for group in optimizer.param_groups})
        kept = last_checkpoint(trainer)
        raise NonFiniteLossError(
            f"the loss is {', '.join(f'{value:g}' for value in losses.tolist())} in epoch {trainer.current_epoch}, "
            f"step {trainer.global_step} (learning rate {', '.join(rates)}); the weights are those before this batch. "
            "A lower learning rate, trainer.gradient_clip_val, a warm-up, precision 32-true, or a look at the data may "
            "help. " + (f"The last good checkpoint is {kept}" if kept else "No checkpoint was written before")
        )


class InterruptGuard(Callback):
    """On SIGINT or SIGTERM, stops after the current batch; a fit saves its state and prints how to resume.

    All processes stop at the same batch, even if only one got the signal. A second SIGINT stops at once, without
    saving. After a run that raised an error, the handlers are still set; the command line restores the earlier ones.

    Args:
        command: Arguments of the `blockzoo` call, for the command that resumes it.
    """

    def __init__(self, command: Sequence[str] = ()) -> None:
        self.command = list(command)
        self._received: set[int] = set()
        self._former: dict[int, Any] = {}
        self._process = os.getpid()
        self._at_once = False
        self._weights_are_swapped = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set handlers for the two signals before loaders start their workers, which inherit the handlers."""
        self._former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self._take_over()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the earlier handlers."""
        for number, handler in self._former.items():
            if threading.current_thread() is threading.main_thread():
                signal.signal(number, handler)

    def _take_over(self, *args: Any, **kwargs: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._note)

    # Lightning has put its own handler of SIGTERM in between, which talks to other processes whatever they are doing.
    on_train_start = on_validation_start = on_test_start = on_predict_start = _take_over

    def _note(self, number: int, frame: Any) -> None:
        if os.getpid() != self._process:  # a loader's worker: its parent ends it
            return None if number == signal.SIGINT else os._exit(128 + number)
        if number == signal.SIGINT and number in self._received:
            self._at_once = True
            raise KeyboardInterrupt
        self._received.add(number)
        os.write(2, b"\nblockzoo: stopping after this batch; a second Ctrl-C stops at once\n")

    def _stop_together(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        for number, exception in ((signal.SIGTERM, SIGTERMException), (signal.SIGINT, KeyboardInterrupt)):
            if trainer.strategy.reduce_boolean_decision(number in self._received, all=False):
                raise exception

    on_train_batch_end = on_validation_batch_end = on_test_batch_end = on_predict_batch_end = _stop_together

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that weight averaging, which comes before this callback, has put the averages into the module."""
        self._weights_are_swapped = True

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that the weights are back in the module."""
        self._weights_are_swapped = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save `interrupted.ckpt` beside the other checkpoints."""
        if not isinstance(exception, KeyboardInterrupt | SIGTERMException) or trainer.state.fn != "fit":
            return
        name = "SIGTERM" if isinstance(exception, SIGTERMException) else "SIGINT"
        where = f"Stopped by {name} in epoch {trainer.current_epoch}, step {trainer.global_step}"
        folder = getattr(trainer.checkpoint_callback, "dirpath", None)
        if self._at_once or not folder or trainer.global_step == 0:
            kept = last_checkpoint(trainer)
            rank_zero_info(f"{where}; " + (f"the last checkpoint is {kept}" if kept else "no checkpoint was written"))
            return
        callbacks: list[Callback] = getattr(trainer, "callbacks", [])
        for callback in callbacks:
            if self._weights_are_swapped and isinstance(callback, WeightAveraging):
                callback.on_validation_epoch_end(trainer, pl_module)
        path = Path(folder) / "interrupted.ckpt"
        trainer.save_checkpoint(path)
        rank_zero_info(f"{where}; saved {path}. To go on:\n  {self._resume(path)}")

    def without_checkpoint(self) -> list[str]:
        """The arguments of the call, without the checkpoint that it resumed."""
        pairs = zip(["", *self.command], self.command, strict=False)
        return [word for before, word in pairs if before != "--ckpt_path" and not word.startswith("--ckpt_path")]

    def _resume(self, path: Path) -> str:
        return shlex.join(["blockzoo", *self.without_checkpoint(), "--ckpt_path", str(path)])


class ExactResume(Callback):
    """Makes a fit that is resumed at the end of an epoch continue as if it had never stopped.

    Checkpoints also hold the random state, and the best checkpoint so far still counts, although the new run has its
    own folder. A fit resumed within an epoch sees the rest of that epoch in another order.
    """

    def state_dict(self) -> dict[str, Any]:
        """The random states of this process, as tensors and plain values."""
        kind, key, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002 - what augmentations draw from
        state = {
            "torch": torch.get_rng_state(),
            "python": random.getstate(),
            "numpy": (str(kind), np.asarray(key).tolist(), int(position), int(has_gauss), float(gauss)),
        }
        return {**state, "cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else state

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore both, before the training data is shuffled for the first time."""
        states = checkpoint.get("callbacks", {})
        for callback in trainer.checkpoint_callbacks:
            state = states.get(callback.state_key, {})
            # ModelCheckpoint drops its scores when its folder is another one.
            if isinstance(callback, ModelCheckpoint) and Path(state.get("best_model_path", "")).is_file():
                state["dirpath"] = callback.dirpath
        own = states.get(self.state_key)
        if own is None or trainer.state.fn != "fit":
            return
        torch.set_rng_state(own["torch"].cpu())
        random.setstate(own["python"])
        np.random.set_state(own["numpy"])  # noqa: NPY002 - as above
        if "cuda" in own and torch.cuda.is_available():
            torch.cuda.set_rng_state(own["cuda"].cpu())
