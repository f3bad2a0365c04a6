"""Base class of all data modules."""

import abc
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from blockzoo.tasks.core.transforms import wanted_inputs

__all__ = ["ZooData"]


class ZooData(LightningDataModule, abc.ABC):
    """Base class of data modules: training, validation, test and prediction sets, and their loaders.

    Subclasses set `datasets` in `setup`, with those of the keys "train", "val", "test" and "predict" that exist.
    Loaders for evaluation neither shuffle nor drop anything. On several devices, Lightning repeats some samples so that
    all devices get the same number; evaluate on one device if a metric must be exact.

    Args:
        batch_size: Samples in a batch, on each device.
        num_workers: Processes that prepare batches; 0 for none.
    """

    def __init__(self, batch_size: int = 32, num_workers: int = 0) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1")
        if num_workers < 0:
            raise ValueError(f"num_workers={num_workers} must be 0 (none) or more")
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.datasets: dict[str, Dataset[Any]] = {}

    def match(self, cfg: dict[str, Any], trained: bool = True) -> None:
        """Set how inputs are prepared to what a model expects, where the user gave no argument; by default, do nothing.

        Within a trainer `setup` calls it for the trainer's model. Without one, call it before `setup`.

        Args:
            cfg: The model's `pretrained_cfg`, or what `wanted_inputs` returns.
            trained: Whether the model's weights expect it; False if it is only a default of the architecture.
        """

    def match_task(self) -> None:
        """Call `match` for the model and weights of the trainer's task, if there is a trainer."""
        task: Any = getattr(self.trainer, "lightning_module", None)
        model = getattr(task, "model", None)
        if model is None:
            return
        given = task.hparams.get("checkpoint_path") or task.hparams.get("backbone_checkpoint")
        self.match(*wanted_inputs(model, bool(task.hparams.get("pretrained")), given))

    @property
    @abc.abstractmethod
    def preprocessing(self) -> dict[str, Any]:
        """How inputs are prepared, as plain values that are stored beside the weights."""

    @property
    @abc.abstractmethod
    def description(self) -> dict[str, str]:
        """For the model card: `dataset`, `license`, `split`."""

    @property
    def train_labels(self) -> list[tuple[int, ...]]:
        """The classes of each training sample, by number, where the module knows them without its samples.

        Raises:
            ValueError: It does not.
        """
        raise ValueError(f"{type(self).__name__} does not tell how many samples a class has; give numbers instead")

    def _sampler(self) -> Any:
        """What draws the training samples; None to shuffle them."""
        return None

    def _loader(self, name: str) -> Any:
        if name not in self.datasets:
            return []
        sampler = self._sampler() if name == "train" else None
        return DataLoader(
            dataset=self.datasets[name],
            batch_size=self.batch_size,
            shuffle=name == "train" and sampler is None,
            sampler=sampler,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )

    def _required(self, *names: str) -> Any:
        """Batches of the first existing part.

        Raises:
            ValueError: There is none.
        """
        for name in names:
            if name in self.datasets:
                return self._loader(name)
        about = f"{type(self).__name__} ({self.description.get('dataset', 'not described')})"
        raise ValueError(f"{about} has no {names[-1]} part; its parts are {', '.join(self.datasets) or 'none'}")

    def train_dataloader(self) -> Any:
        """Shuffled batches of the training part."""
        return self._loader("train")

    def val_dataloader(self) -> Any:
        """Batches of the validation part; in a fit, nothing if there is no such part.

        Raises:
            ValueError: Validation was asked for, and there is none.
        """
        validates = self.trainer is not None and self.trainer.state.fn == "validate"
        return self._required("val") if validates else self._loader("val")

    def test_dataloader(self) -> Any:
        """Batches of the test part.

        Raises:
            ValueError: There is none.
        """
        return self._required("test")

    def predict_dataloader(self) -> Any:
        """Batches to predict, by default those of the test part.

        Raises:
            ValueError: There is neither a part to predict nor a test part.
        """
        return self._required("predict", "test")
