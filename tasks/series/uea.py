"""Data modules for the classification of series."""

from importlib.resources import files
from typing import Any

import torch
from torch.utils.data import Dataset

from blockzoo.tasks.core.data import ZooData
from blockzoo.tasks.core.split import stratified_split
from blockzoo.tasks.series.ts_files import SeriesSet, read_series_set, read_ts

__all__ = ["JapaneseVowels", "UEASeries"]


class _Padded(Dataset[dict[str, torch.Tensor]]):
    """Padded, standardised series as samples."""

    def __init__(self, x: torch.Tensor, mask: torch.Tensor, label: torch.Tensor) -> None:
        self.x, self.mask, self.label = x, mask, label

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        values = {"x": self.x[index], "mask": self.mask[index], "label": self.label[index]}
        return {**values, "index": torch.tensor(index)}


class UEASeries(ZooData):
    """A classification set of the UEA archive, from its two `.ts` files.

    Channels are standardised by mean and deviation over the real steps of the training part, without its validation
    share; a channel that is constant there is only centred. Series are padded with zeros at the end.

    Args:
        train_path: The training part, `NAME_TRAIN.ts`.
        test_path: The test part, `NAME_TEST.ts`.
        seq_len: Padded length; the longest series by default.
        val_fraction: Share of the training part, by class, that is held out for validation; 0 for none.
        split_seed: Seed of that split.
        batch_size: Series in a batch, on each device.
        num_workers: Processes that prepare batches.

    Raises:
        ValueError: `seq_len` is shorter than a series, or `val_fraction` is out of range.
    """

    def __init__(
        self,
        train_path: str,
        test_path: str,
        seq_len: int | None = None,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        batch_size: int = 16,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers)
        self.train_path = train_path
        self.test_path = test_path
        self.seq_len = seq_len
        self.val_fraction = val_fraction
        self.split_seed = split_seed
        self.mean = torch.zeros(0)
        self.std = torch.zeros(0)
        self.class_names: tuple[str, ...] = ()

    def read(self) -> tuple[SeriesSet, SeriesSet]:
        """The training and the test part as they were published."""
        train = read_ts(self.train_path)
        return train, read_ts(self.test_path, train.class_names)

    def setup(self, stage: str) -> None:
        """Read, split and standardise, for every stage."""
        if self.datasets:
            return
        train, test = self.read()
        seq_len = self.seq_len or int(max(train.lengths.max(), test.lengths.max()))
        fit, held_out = stratified_split(train.labels, self.val_fraction, self.split_seed)
        x, mask = train.padded(seq_len)
        real = x[fit][mask[fit] > 0]
        self.mean, self.class_names = real.mean(0), train.class_names
        constant = real.amax(0) == real.amin(0)
        self.std = torch.where(constant, 1.0, real.std(0, correction=0))
        self.datasets = {"train": self._padded(x[fit], mask[fit], train.labels[fit])}
        if len(held_out):
            self.datasets["val"] = self._padded(x[held_out], mask[held_out], train.labels[held_out])
        self.datasets["test"] = self._padded(*test.padded(seq_len), test.labels)

    def _padded(self, x: torch.Tensor, mask: torch.Tensor, label: torch.Tensor) -> _Padded:
        return _Padded((x - self.mean) / self.std * mask[..., None], mask, label)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Per-channel `mean` and `std`, and the class names."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist(), "label_names": list(self.class_names)}

    @property
    def description(self) -> dict[str, str]:
        """See `ZooData.description`."""
        return {"dataset": f"{self.train_path}, {self.test_path}", "license": "unknown", "split": self._split}

    @property
    def _split(self) -> str:
        held = f"{self.val_fraction:.0%} of the training part, by class, held out for validation"
        return f"published training and test part; {held} (seed {self.split_seed})"


class JapaneseVowels(UEASeries):
    """Nine speakers of two vowels: 270 training and 370 test series, 12 channels, 7 to 29 steps; packaged.

    Source: "Multidimensional Curve Classification Using Passing-Through Regions" (1999), through the UCI and UEA
    archives (CC BY 4.0). Arguments as for `UEASeries`.
    """

    def __init__(
        self,
        seq_len: int = 29,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        batch_size: int = 16,
        num_workers: int = 0,
    ) -> None:
        super().__init__("", "", seq_len, val_fraction, split_seed, batch_size, num_workers)

    def read(self) -> tuple[SeriesSet, SeriesSet]:
        """The packaged training and test part."""
        path = str(files("blockzoo.tasks.series") / "japanese_vowels.safetensors")
        return read_series_set(path, "train"), read_series_set(path, "test")

    @property
    def description(self) -> dict[str, str]:
        """See `ZooData.description`."""
        return {"dataset": "JapaneseVowels", "license": "CC-BY-4.0", "split": self._split}
