"""What all data modules share."""

import abc
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

__all__ = ["ZooData"]


class ZooData(LightningDataModule, abc.ABC):
    """Training, validation, test and prediction sets, and the loaders over them.

    Subclasses set `datasets` in `setup`, with the keys "train", "val", "test" and "predict" as far as they exist.
    Loaders for evaluation neither shuffle nor drop anything. On several devices Lightning repeats up to one sample for
    each device but one, so that all see as many; evaluate on one device where a metric must be exact.

    Args:
        batch_size: Samples in a batch, on each device.
        num_workers: Processes that prepare batches; 0 for none.
    """

    def __init__(self, batch_size: int = 32, num_workers: int = 0) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1")
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.datasets: dict[str, Dataset[Any]] = {}

    @property
    @abc.abstractmethod
    def preprocessing(self) -> dict[str, Any]:
        """How inputs are prepared, as plain values that are stored beside the weights."""

    @property
    @abc.abstractmethod
    def description(self) -> dict[str, str]:
        """For the model card: `dataset`, `license`, `split`."""

    def _loader(self, name: str) -> Any:
        if name not in self.datasets:
            return []
        return DataLoader(
            dataset=self.datasets[name],
            batch_size=self.batch_size,
            shuffle=name == "train",
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )

    def train_dataloader(self) -> Any:
        """Shuffled batches of the training part."""
        return self._loader("train")

    def val_dataloader(self) -> Any:
        """Batches of the validation part, or nothing if there is none."""
        return self._loader("val")

    def test_dataloader(self) -> Any:
        """Batches of the test part."""
        return self._loader("test")

    def predict_dataloader(self) -> Any:
        """Batches of what is to be predicted, the test part if nothing else was given."""
        return self._loader("predict" if "predict" in self.datasets else "test")
