"""Multivariate classification sets of the UEA archive: the `.ts` text format and a compact binary one.

The archive: Bagnall et al., "The UEA multivariate time series classification archive, 2018" (2018). A `.ts` file has
`@key value` headers and one series a line, channels separated by `:`, steps by `,`, the class label last.

    blockzoo package uea NAME_TRAIN.ts NAME_TEST.ts NAME.safetensors

writes the compact form of a set, which is how `japanese_vowels.safetensors` beside this file was made.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from blockzoo.checkpoints import save_state_dict

__all__ = ["SeriesSet", "read_series_set", "read_ts", "write_series_set"]


@dataclass(frozen=True)
class SeriesSet:
    """Labelled series of unequal length, stored end to end.

    Attributes:
        values: All steps of all series, float32 (sum of lengths, channels).
        lengths: Steps of each series, int64 (num_series,).
        labels: Class index of each series, int64 (num_series,).
        class_names: The label text of each class index.
    """

    values: torch.Tensor
    lengths: torch.Tensor
    labels: torch.Tensor
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def padded(self, seq_len: int) -> tuple[torch.Tensor, torch.Tensor]:
        """All series as one array, zero behind each series' last step.

        Args:
            seq_len: Steps of the result; at least the longest series.

        Returns:
            Values (num_series, seq_len, channels) and mask (num_series, seq_len), 1 where a step is real.

        Raises:
            ValueError: `seq_len` is shorter than the longest series.
        """
        longest = int(self.lengths.max())
        if seq_len < longest:
            raise ValueError(f"seq_len={seq_len} is shorter than the longest series ({longest} steps)")
        mask = torch.arange(seq_len) < self.lengths[:, None]
        values = self.values.new_zeros(len(self), seq_len, self.values.shape[1])
        values[mask] = self.values
        return values, mask.to(values.dtype)


def read_ts(path: str | Path, class_names: tuple[str, ...] | None = None) -> SeriesSet:
    """Read one `.ts` file.

    Args:
        path: The file.
        class_names: Label texts in class order; the file's own `@classLabel` order by default.

    Raises:
        ValueError: A line does not parse; the message names the file, the line and what is wrong with it.
    """
    values, lengths, labels = [], [], []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("@"):
            key, *words = line.split()
            if key.lower() == "@classlabel" and class_names is None:
                class_names = tuple(words[1:])
            continue
        if class_names is None:
            raise ValueError(f"{path}, line {number}: data before an @classLabel header")
        *channels, label = line.strip().split(":")
        try:
            steps = torch.tensor([[float(cell) for cell in channel.split(",")] for channel in channels])
            labels.append(class_names.index(label))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
        values.append(steps.T)
        lengths.append(steps.shape[1])
    if not values or class_names is None:
        raise ValueError(f"{path}: no series in this file")
    return SeriesSet(torch.cat(values), torch.tensor(lengths), torch.tensor(labels), class_names)


def write_series_set(splits: dict[str, SeriesSet], path: str | Path) -> None:
    """Write splits of one data set into a safetensors file; all splits share the class names."""
    names = {split.class_names for split in splits.values()}
    if len(names) != 1:
        raise ValueError(f"the splits disagree about the classes: {sorted(names)}")
    tensors = {
        f"{key}.{field}": getattr(split, field)
        for key, split in splits.items()
        for field in ("values", "lengths", "labels")
    }
    save_state_dict(tensors, path, {"class_names": "\n".join(names.pop())})


def read_series_set(path: str | Path, split: str) -> SeriesSet:
    """Read one split of a file that `write_series_set` wrote.

    Raises:
        ValueError: The file has no such split.
    """
    with safe_open(path, framework="pt") as file:
        splits = sorted({key.split(".")[0] for key in file.keys()})
        if split not in splits:
            raise ValueError(f"split={split!r} is not in {path}; it has {', '.join(splits)}")
        values, lengths, labels = (file.get_tensor(f"{split}.{field}") for field in ("values", "lengths", "labels"))
        return SeriesSet(values, lengths, labels, tuple(file.metadata()["class_names"].split("\n")))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("train", help="the training part, a .ts file")
    parser.add_argument("test", help="the test part, a .ts file")
    parser.add_argument("out", help="the safetensors file to write")


def run(args: argparse.Namespace) -> int:
    """Convert a pair of `.ts` files to one safetensors file."""
    train = read_ts(args.train)
    test = read_ts(args.test, train.class_names)
    write_series_set({"train": train, "test": test}, args.out)
    print(f"{args.out}: {len(train)} training and {len(test)} test series, {len(train.class_names)} classes")
    return 0
