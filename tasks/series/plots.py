"""Figures of a test of a series task, in the run's folder."""

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from blockzoo.tasks.core.files import write_figure
from blockzoo.tasks.series.task import SeriesTask

__all__ = ["SeriesPlots"]


class SeriesPlots(Callback):
    """Draws, after a test, what the task offers as figures: `forecast.png`, `imputation.png` or `anomaly.png`, and
    `periods.png`.

    The last one shows what TimesNet makes of the first test series: the embedded series folded by its periods.

    Args:
        channel: Index of the channel to draw of a forecast, among those that count.
    """

    def __init__(self, channel: int = -1) -> None:
        self.channel = channel

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, on the main process, if the run has a folder."""
        log_dir = trainer.log_dir if trainer.loggers else None
        if not trainer.is_global_zero or log_dir is None:
            return
        folder = Path(log_dir)
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(pl_module, SeriesTask):
            figures = pl_module.test_figures(getattr(trainer, "datamodule", None), self.channel)
            for name, figure in figures.items():
                write_figure(folder / name, figure)
