"""Callback that saves the resolved config of a fit beside its results."""

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

__all__ = ["SaveFitConfig"]

_OF_ONE_CALL = ("ckpt_path", "weights_only", "verbose", "return_predictions", "config")


class SaveFitConfig(SaveConfigCallback):
    """Writes `config.yaml` into the run's folder, only for `fit`, so that evaluations do not change it.

    Entries that belong to one call, such as `ckpt_path`, are left out, since other subcommands refuse them.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write once, at the start of a fit."""
        # Asking for the folder is a collective call: every process must get to it.
        if stage != "fit" or self.already_saved or trainer.log_dir is None:
            return
        for name in _OF_ONE_CALL:
            self.config.pop(name, None)
        self.overwrite = True
        super().setup(trainer, pl_module, stage)
