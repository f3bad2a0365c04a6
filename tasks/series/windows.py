"""Windows over one long series: borders of its parts, standardisation, samples."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from blockzoo.tasks.core.streams import stream

__all__ = ["PARTS", "ManyWindows", "Split", "Windows", "channel_statistics", "hide", "part_rows", "stretches_of"]

PARTS = ("train", "val", "test")

Split = Literal["ratio", "ett_hour", "ett_minute"]

_ETT_MONTHS = (12, 4, 4)


def part_rows(
    count: int, split: Split = "ratio", ratios: tuple[float, float, float] = (0.7, 0.1, 0.2), look_back: int = 0
) -> dict[str, range]:
    """Rows of the training, validation and test part.

    Source: Time-Series-Library, whose rounding this keeps: whole rows of the first and last share, the rest between.

    Args:
        count: Rows of the series.
        split: "ratio"; or the first 12, next 4 and next 4 months of 30 days of the ETT sets, by the hour ("ett_hour")
            or the quarter of an hour ("ett_minute"), what follows being left out.
        ratios: Shares of the three parts, with a sum of 1.
        look_back: Rows before its own that validation and test may use as input.

    Raises:
        ValueError: The shares do not fit, or the series is too short for the months.
    """
    if split == "ratio":
        if min(ratios) < 0 or abs(sum(ratios) - 1) > 1e-6 or ratios[0] == 0:
            raise ValueError(f"ratios={list(ratios)} must be three shares of at least 0, the first above, with sum 1")
        train, test = int(count * ratios[0]), int(count * ratios[2])
        ends = (train, count - test, count)
    elif split in ("ett_hour", "ett_minute"):
        month = 30 * 24 * (1 if split == "ett_hour" else 4)
        ends = tuple(month * sum(_ETT_MONTHS[: i + 1]) for i in range(3))  # type: ignore[assignment]
        if count < ends[2]:
            raise ValueError(f"split={split!r} needs {ends[2]} rows, the series has {count}; split='ratio' takes any")
    else:
        raise ValueError(f"split={split!r} must be 'ratio', 'ett_hour' or 'ett_minute'")
    starts = (0, max(0, ends[0] - look_back), max(0, ends[1] - look_back))
    return {name: range(start, end) for name, start, end in zip(PARTS, starts, ends, strict=True)}


def channel_statistics(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each channel over its observed values; deviation 1 where a channel is constant.

    Args:
        values: (rows, channels), NaN where a value is missing.

    Returns:
        Two float64 arrays (channels,); 0 and 1 for a channel without a value.
    """
    seen = ~np.isnan(values)
    count = np.maximum(seen.sum(0), 1)
    mean = np.where(seen, values, 0).sum(0) / count
    centred = np.where(seen, values - mean, 0)
    std = np.sqrt((centred**2).sum(0) / count)
    constant = np.where(seen, np.abs(centred), 0).max(0, initial=0) <= 1e-12 * np.maximum(np.abs(mean), 1)
    return mean, np.where(constant, 1.0, std)


def hide(shape: Sequence[int], rate: float, seed: int, index: int) -> torch.Tensor:
    """Choose the random cells of a sample to hide in evaluation; they do not depend on its batch.

    Args:
        shape: (steps, channels).
        rate: Probability of each cell.
        seed: Seed of the whole evaluation.
        index: First row of the sample.

    Returns:
        bool, of the shape.
    """
    drawn = stream(seed, round(rate * 1e6), index).random(tuple(shape), dtype=np.float32)
    return torch.from_numpy(drawn < rate)


def stretches_of(lines: np.ndarray) -> np.ndarray:
    """The stretch without a gap that each step belongs to.

    Args:
        lines: Line that each step comes from, 0 for a step that the file leaves out, (steps,).

    Returns:
        Numbers of stretches from 0, -1 for a step that is left out, int64 (steps,).
    """
    there = lines > 0
    first = there & ~np.r_[False, there[:-1]]
    return np.where(there, first.cumsum() - 1, -1)


class Windows(Dataset[dict[str, torch.Tensor]]):
    """Samples of `seq_len` steps, with the `pred_len` steps after them, from some rows of a series.

    A sample has `x` (seq_len, C), `index` (the row of its first step), `y` (pred_len, C) if `pred_len` is not 0,
    `time_features` (seq_len, F) if there are any, and, if values are missing anywhere in the series, `mask` and
    `y_mask` of the shapes of `x` and `y`: 1 where a value is observed, 0 where it is missing and stands as 0.

    Covariates stand in `known` (seq_len + pred_len, K), those of the past and of the steps to forecast, and `static`
    (S,), those of the series as a whole.

    With `stretches`, no sample spans a gap: it shows only one stretch, all other values count as missing, and
    `step_mask` (seq_len,) is 1 at the steps of that stretch. A stretch that is shorter than a sample has its own
    sample.

    Args:
        values: The whole series, standardised, (rows, C), NaN where a value is missing.
        time_features: Calendar features, (rows, F), or None.
        rows: Those that samples may use.
        seq_len: Steps of an input.
        pred_len: Steps of a target.
        stride: Rows from one sample to the next.
        whole: Let a last sample end with the last row even if the stride would leave rows out; of each stretch, if
            there are any.
        stretches: See `stretches_of`, (rows,); None if samples may span gaps.
        known: Covariates that are known ahead, without gaps, (rows, K), or None.
        static: Covariates of the series as a whole, (S,), or None.
    """

    def __init__(
        self,
        values: np.ndarray,
        time_features: np.ndarray | None,
        rows: range,
        seq_len: int,
        pred_len: int = 0,
        stride: int = 1,
        whole: bool = False,
        stretches: np.ndarray | None = None,
        known: np.ndarray | None = None,
        static: np.ndarray | None = None,
    ) -> None:
        seen = ~np.isnan(values)
        self.values = torch.from_numpy(np.where(seen, values, 0).astype(np.float32))
        self.mask = None if seen.all() else torch.from_numpy(seen.astype(np.float32))
        self.time_features = None if time_features is None else torch.from_numpy(time_features)
        self.known = None if known is None else torch.from_numpy(known.astype(np.float32))
        self.static = None if static is None else torch.from_numpy(static.astype(np.float32))
        self.seq_len, self.pred_len = seq_len, pred_len
        self.stretches = None if stretches is None else torch.from_numpy(stretches)
        if self.mask is None and stretches is not None and len(np.unique(stretches[rows.start : rows.stop])) > 1:
            self.mask = torch.ones_like(self.values)
        starts, owners = [], []
        for number, part in enumerate([rows] if stretches is None else _parts(stretches, rows)):
            last = part.stop - seq_len - pred_len
            found = list(range(part.start, last + 1, stride))
            if whole and found and found[-1] != last:
                found.append(last)
            if not found and stretches is not None and len(rows) >= seq_len:
                found = [min(max(last, rows.start), rows.stop - seq_len)]
            starts += found
            owners += [number if stretches is None else int(stretches[part.start])] * len(found)
        self.starts = torch.tensor(starts, dtype=torch.long)
        self.owners = torch.tensor(owners, dtype=torch.long)

    @property
    def observed(self) -> np.ndarray:
        """The whole series, standardised, float64 (rows, C), NaN where a value is missing."""
        values = self.values.double()
        return (values if self.mask is None else values.where(self.mask > 0, torch.nan)).numpy()

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        start = int(self.starts[index])
        middle, end = start + self.seq_len, start + self.seq_len + self.pred_len
        sample = {"x": self.values[start:middle], "index": self.starts[index]}
        if self.pred_len:
            sample["y"] = self.values[middle:end]
        if self.time_features is not None:
            sample["time_features"] = self.time_features[start:middle]
        if self.mask is not None:
            sample["mask"] = self.mask[start:middle]
            if self.pred_len:
                sample["y_mask"] = self.mask[middle:end]
        if self.known is not None:
            sample["known"] = self.known[start:end]
        if self.static is not None:
            sample["static"] = self.static
        if self.stretches is not None:
            own = (self.stretches[start:middle] == self.owners[index]).to(sample["x"].dtype)
            sample["step_mask"] = own
            if self.mask is not None:
                sample["mask"] = sample["mask"] * own[:, None]
                sample["x"] = sample["x"] * own[:, None]
        return sample


class ManyWindows(Dataset[dict[str, torch.Tensor]]):
    """The windows of many series, one after the other.

    A sample is that of `Windows`, with `series`, the number of its series, and `unit` and `offset` (C,), by which
    values go back to the series' own units: `y * unit + offset`. Where one series has missing values, all samples have
    masks.

    Args:
        parts: Windows of each series, of equal sizes.
        units: Deviations of each series, (series, C).
        offsets: Means of each series, (series, C).
        names: Of the series.
    """

    def __init__(
        self, parts: Sequence[Windows], units: np.ndarray, offsets: np.ndarray, names: Sequence[str]
    ) -> None:  # fmt: skip
        self.parts, self.names = list(parts), list(names)
        self.seq_len, self.pred_len = self.parts[0].seq_len, self.parts[0].pred_len
        self.units, self.offsets = (torch.from_numpy(part.astype(np.float32)) for part in (units, offsets))
        self.masked = any(part.mask is not None for part in self.parts)
        self.ends = np.cumsum([len(part) for part in self.parts])

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = int(np.searchsorted(self.ends, index, side="right"))
        part = self.parts[number]
        sample = part[index - int(self.ends[number]) + len(part)]
        if self.masked and "mask" not in sample:
            sample["mask"] = torch.ones_like(sample["x"])
            if "y" in sample:
                sample["y_mask"] = torch.ones_like(sample["y"])
        return {**sample, "series": torch.tensor(number), "unit": self.units[number], "offset": self.offsets[number]}


def _parts(stretches: np.ndarray, rows: range) -> list[range]:
    """Rows of each stretch within some rows."""
    inside = stretches[rows.start : rows.stop]
    edges = np.flatnonzero(np.diff(inside, prepend=-2)).tolist() + [len(inside)]
    return [range(rows.start + a, rows.start + b) for a, b in zip(edges[:-1], edges[1:], strict=True) if inside[a] >= 0]
