"""Multivariate classification sets of the UEA archive: the `.ts` text format and a compact binary one.

The archive: Bagnall et al., "The UEA multivariate time series classification archive, 2018" (2018). A `.ts` file has
`@key value` headers and one series a line, channels separated by `:`, steps by `,`, the class label last.

    blockzoo package uea NAME_TRAIN.ts NAME_TEST.ts --out NAME.safetensors

writes the compact form of a set, which is how `japanese_vowels.safetensors` beside this file was made.
"""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from blockzoo.checkpoints import save_state_dict
from blockzoo.tasks.core.files import check_output
from blockzoo.tasks.core.output import add_out
from blockzoo.tasks.series.table_files import named_text

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
        """All series as one array, zero after each series' last step.

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

    Missing values (`?`, `NaN`) are interpolated linearly, time stamps are ignored, and labels may have several words.

    Args:
        path: The file.
        class_names: Label texts in class order; the file's own `@classLabel` order by default.

    Raises:
        ValueError: A line does not parse; the message names the file, the line and what is wrong with it.
    """
    values, lengths, labels, places = [], [], [], []
    names, labelled = class_names, True
    with named_text(str(path)) as file:
        for number, line in enumerate(file, start=1):
            line = line.strip()
            if not line or line.startswith(("#", "%")):
                continue
            if line.startswith("@"):
                key, *words = line.split()
                if key.lower() == "@classlabel":
                    labelled = words[:1] != ["false"]
                    names = class_names or (tuple(words[1:]) if labelled else ("unlabelled",))
                continue
            if names is None:
                raise ValueError(f"{path}, line {number}: data before an @classLabel header")
            *channels, label = re.split(r":(?![^()]*\))", line)  # colons within a time stamp divide nothing
            if not labelled:
                channels, label = [*channels, label], "unlabelled"
            try:
                steps = torch.tensor([_channel(channel) for channel in channels])
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
            labels.append(" ".join(label.split()))
            places.append(number)
            values.append(steps.T)
            lengths.append(steps.shape[1])
    if not values or names is None:
        raise ValueError(f"{path}: no series in this file")
    if class_names is None:
        names = _join_words(names, set(labels))
    for label, number in zip(labels, places, strict=True):
        if label not in names:
            raise ValueError(f"{path}, line {number}: label {label!r} is not among {', '.join(map(repr, names))}")
    indices = torch.tensor([names.index(label) for label in labels])
    return SeriesSet(torch.cat(values), torch.tensor(lengths), indices, names)


def _channel(text: str) -> list[float]:
    """Values of a channel; missing ones are interpolated linearly."""
    cells = [cell.strip() for cell in re.findall(r"\([^()]*,([^(),]*)\)", text) if "(" in text] or text.split(",")
    values = np.array([np.nan if cell.strip().lower() in ("?", "nan", "") else float(cell) for cell in cells])
    seen = ~np.isnan(values)
    if not seen.any():
        raise ValueError("a channel without a value")
    if not np.isfinite(values[seen]).all():
        raise ValueError("a value is not finite")
    steps = np.arange(len(values))
    filled: list[float] = np.interp(steps, steps[seen], values[seen]).tolist()
    return filled


def _join_words(words: tuple[str, ...], labels: set[str]) -> tuple[str, ...]:
    """Class names from the words of a header, where labels may be of several words."""
    names = list(words)
    for label in sorted(labels - set(words), key=lambda label: (-len(label.split()), label)):
        parts = label.split()
        for i in range(len(names) - len(parts) + 1):
            if names[i : i + len(parts)] == parts:
                names[i : i + len(parts)] = [label]
                break
    return tuple(names)


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
    add_out(parser, "the .safetensors file to write", required=True)


def run(args: argparse.Namespace) -> int:
    """Convert a pair of `.ts` files to one safetensors file."""
    check_output(args.out, [args.train, args.test])
    train = read_ts(args.train)
    test = read_ts(args.test, train.class_names)
    write_series_set({"train": train, "test": test}, args.out)
    print(f"{args.out}: {len(train)} training and {len(test)} test series, {len(train.class_names)} classes")
    return 0
