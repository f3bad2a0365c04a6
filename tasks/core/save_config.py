"""The resolved config of a fit, beside its results."""

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

__all__ = ["SaveFitConfig"]

_OF_ONE_CALL = ("ckpt_path", "weights_only", "verbose", "return_predictions", "config")


class SaveFitConfig(SaveConfigCallback):
    """Writes `config.yaml` into the run's folder, for `fit` only, so that evaluations leave it alone.

    What belongs to one call and would be refused by another subcommand, such as `ckpt_path`, is left out.
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
