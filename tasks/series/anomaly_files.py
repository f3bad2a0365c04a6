"""Data for finding anomalies: a normal training part, and a test part with a label for each step."""

from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader

from blockzoo._arguments import positive
from blockzoo.tasks.core.data import ZooData
from blockzoo.tasks.core.packaged import read_arrays
from blockzoo.tasks.series.columns import guessed_date_column, nameless_column
from blockzoo.tasks.series.table import Reading, SeriesTable, read_header, read_table
from blockzoo.tasks.series.time_axis import Irregular
from blockzoo.tasks.series.windows import Windows, channel_statistics, stretches_of

__all__ = ["AnomalyFiles", "InternalBleeding"]


class AnomalyFiles(ZooData):
    """A training series and a labelled test series, cut into windows.

    Files are `.npy` arrays (steps, channels) or `.csv` tables with a header. Channels are standardised by the training
    part's observed values, without its validation share, the last part of it. Missing values are masked and counted.
    Samples have `x`, `index` (row of the first step) and perhaps `mask`, as `Windows` makes them.

    Args:
        train_path: The training part.
        test_path: The test part.
        label_path: 1 for each anomalous test step, 0 for the others: `.npy`, or `.csv` whose last column it is.
        label_column: Instead of `label_path`: the column of `test_path` with the labels.
        ignore: Columns of the tables that are not channels, such as an index or the label of the training part.
        seq_len: Steps of a window.
        val_fraction: Share of the training part, at its end, that is held out.
        stride: Steps from one training window to the next.
        eval_stride: Steps from one window to the next for scores. By default, windows do not overlap, except the last
            one, which ends with the series. If windows overlap, a step's score is the mean over them.
        batch_size: Windows in a batch, on each device.
        num_workers: Processes that prepare batches.
        date_column: Column of the dates of the tables. No window spans a step that is missing from the dates, and such
            a step has neither a score nor a label. Tables without it, or None: rows are consecutive steps.
        date_format: This and the following options say how the tables are read, see `read_table`.
        delimiter: Between cells.
        missing_values: Further cells that stand for missing values.
        irregular: "fill", "error" or "ignore".
        decimal: "." or ",".
        thousands: Character between groups of three digits; None for none.
        encoding: Of the text, if it is not UTF-8.
        time_zone: Zone of the dates, such as "Europe/Berlin".
        closed: Holidays that a series of working days leaves out: a country, an exchange, or a file of dates.

    Raises:
        ValueError: A file does not fit; the message says where.
    """

    pred_len = 0

    def __init__(
        self,
        train_path: str,
        test_path: str,
        label_path: str | None = None,
        label_column: str | None = None,
        ignore: list[str] | None = None,
        seq_len: int = 100,
        val_fraction: float = 0.2,
        stride: int = 1,
        eval_stride: int | None = None,
        batch_size: int = 128,
        num_workers: int = 0,
        date_column: str | None = "date",
        date_format: str | None = None,
        delimiter: str = ",",
        missing_values: list[str] | None = None,
        irregular: Irregular = "fill",
        decimal: str = ".",
        thousands: str | None = None,
        encoding: str | None = None,
        time_zone: str | None = None,
        closed: str | None = None,
    ) -> None:
        super().__init__(batch_size, num_workers)
        positive(seq_len=seq_len, stride=stride, eval_stride=seq_len if eval_stride is None else eval_stride)
        self.reading = Reading(
            date_column, date_format, delimiter, tuple(missing_values or ()), irregular, decimal, thousands, encoding,
            time_zone=time_zone, closed=closed,
        )  # fmt: skip
        if not 0 < val_fraction < 1:
            raise ValueError(f"val_fraction={val_fraction} must be between 0 and 1")
        self.train_path, self.test_path = train_path, test_path
        self.label_path, self.label_column, self.ignore = label_path, label_column, ignore or []
        self.seq_len, self.val_fraction = seq_len, val_fraction
        self.stride, self.eval_stride = stride, seq_len if eval_stride is None else eval_stride
        self.table: SeriesTable | None = None
        self.mean, self.std = np.zeros(0), np.ones(0)
        self.label = torch.zeros(0, dtype=torch.bool)

    def read(self) -> tuple[SeriesTable, SeriesTable, np.ndarray]:
        """Training part, test part, and whether each test step is anomalous."""
        if self.label_column is not None and self.label_path is not None:
            raise ValueError(
                f"label_path={self.label_path!r} and label_column={self.label_column!r} both say where the test labels "
                "are; one must be null"
            )
        train, test = (_read_part(path, self.ignore, self.reading) for path in (self.train_path, self.test_path))
        if self.label_column is not None:
            label = read_table(self.test_path, [self.label_column], **_undated(self.reading).options()).values
            places = [i for i, name in enumerate(test.columns) if name != self.label_column]
            names = tuple(test.columns[i] for i in places)
            test = replace(test, columns=names, values=test.values[:, places])
        elif self.label_path is not None:
            label = _read_part(self.label_path, [], _undated(self.reading)).values[:, -1:]
        else:
            raise ValueError("label_path=None and label_column=None: one must say where the test labels are")
        rows = test.lines > 0
        if label.shape[0] != rows.sum() or not np.isin(label, (0, 1)).all():
            where = self.label_path or f"column {self.label_column!r} of {self.test_path}"
            raise ValueError(f"{where}: expected 0 or 1 for each of {rows.sum()} test steps")
        anomalous = np.zeros(len(rows), dtype=bool)
        anomalous[rows] = label[:, 0] > 0
        return train, test, anomalous

    def setup(self, stage: str) -> None:
        """Read, standardise and cut, for every stage."""
        if self.datasets:
            return
        train, test, label = self.read()
        if train.columns != test.columns:
            raise ValueError(
                f"{self.train_path} has the channels {', '.join(train.columns)}, but {self.test_path} "
                f"{', '.join(test.columns)}; ignore leaves columns out"
            )
        for table in (train, test):
            if table.missing:
                rank_zero_info(table.report())
        border = int(len(train.values) * (1 - self.val_fraction))
        self.table, self.label = train, torch.from_numpy(label)
        empty = [
            name for name, seen in zip(train.columns, ~np.isnan(train.values[:border]).all(0), strict=True) if not seen
        ]
        if empty:
            raise ValueError(
                f"{self.train_path}: no value of {', '.join(map(repr, empty))} in the training part, rows 0 to "
                f"{border - 1}; ignore leaves columns out"
            )
        self.mean, self.std = channel_statistics(train.values[:border])
        scaled, tested = ((table.values - self.mean) / self.std for table in (train, test))
        rows = {"train": range(border), "val": range(border, len(scaled)), "test": range(len(tested))}
        for part, values in (("train", scaled), ("val", scaled), ("test", tested)):
            stride = self.stride if part == "train" else self.eval_stride
            stretches = stretches_of((test if part == "test" else train).lines)
            self.datasets[part] = Windows(values, None, rows[part], self.seq_len, 0, stride, part != "train", stretches)
            if not len(self.datasets[part]):  # type: ignore[arg-type]  # a map-style data set
                raise ValueError(f"seq_len={self.seq_len} is longer than the {part} part, {len(rows[part])} steps")
        stretches = stretches_of(train.lines)
        self.scored = Windows(scaled, None, rows["train"], self.seq_len, 0, self.eval_stride, True, stretches)

    @property
    def num_targets(self) -> int:
        """Channels whose reconstruction counts: all."""
        return len(self.mean)

    def threshold_dataloaders(self) -> tuple[Any, Any]:
        """Training windows in order, and validation windows."""
        options: dict[str, Any] = {"batch_size": self.batch_size, "num_workers": self.num_workers}
        return DataLoader(dataset=self.scored, shuffle=False, **options), self._loader("val")

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Per-channel `mean` and `std`, and how a file of the same kind is read (`series`)."""
        columns = list(self.table.columns) if self.table else []
        kept: dict[str, Any] = {"columns": columns, "features": "M", "target": None, "time_freq": None}
        if Path(self.train_path).suffix != ".npy":
            kept["reading"] = self.reading.options()
        return {"mean": self.mean.tolist(), "std": self.std.tolist(), "series": kept}

    @property
    def description(self) -> dict[str, str]:
        """See `ZooData.description`."""
        dataset = f"{self.train_path}, {self.test_path}"
        if self.table and self.table.missing:
            dataset += f" ({self.table.report()})"
        return {"dataset": dataset, "license": "unknown", "split": self._split}

    @property
    def _split(self) -> str:
        return f"published training and test part; the last {self.val_fraction:.0%} of the first held out"


def _undated(reading: Reading) -> Reading:
    return replace(reading, date_column=None)


def _read_part(path: str, ignore: list[str], reading: Reading) -> SeriesTable:
    if Path(path).suffix == ".npy":
        try:
            # a map of the file, whose header then cannot promise more than there is
            values: np.ndarray = np.lib.format.open_memmap(path, mode="r")
        except ValueError as error:
            raise ValueError(f"{path}: not an array of numbers ({error})") from error
        values = values[:, None] if values.ndim == 1 else values
        if values.ndim != 2 or values.dtype.kind not in "biuf":
            raise ValueError(f"{path}: expected numbers of shape (steps, channels), not {values.dtype} {values.shape}")
        values = np.array(values, dtype=np.float64)
        if np.isinf(values).any():
            row, column = np.argwhere(np.isinf(values))[0]
            raise ValueError(f"{path}, row {row}, column {column}: {values[row, column]} is not finite")
        names = tuple(f"channel {i}" for i in range(values.shape[1]))
        return SeriesTable(names, values, None, np.arange(len(values)) + 1, path=path)
    header = read_header(path, reading.delimiter, reading.encoding)
    column = guessed_date_column(header, reading.date_column)
    column = column if column in header and column not in ignore else None
    kept = [name for name in header if name not in (*ignore, column, nameless_column(header))]
    return read_table(path, kept, **replace(reading, date_column=column).options())


class InternalBleeding(AnomalyFiles):
    """Arterial pressure of an animal, 1200 normal steps and 7501 with one anomalous stretch; packaged.

    Series 135 (InternalBleeding16) of the UCR anomaly archive: Wu and Keogh, "Current Time Series Anomaly Detection
    Benchmarks are Flawed and are Creating the Illusion of Progress" (2021). Arguments as for `AnomalyFiles`.
    """

    def __init__(
        self,
        seq_len: int = 100,
        val_fraction: float = 0.2,
        stride: int = 1,
        eval_stride: int | None = None,
        batch_size: int = 32,
        num_workers: int = 0,
    ) -> None:
        super().__init__(
            "InternalBleeding16", "InternalBleeding16", "", None, None, seq_len, val_fraction, stride, eval_stride,
            batch_size, num_workers,
        )  # fmt: skip

    def read(self) -> tuple[SeriesTable, SeriesTable, np.ndarray]:
        """The packaged series."""
        arrays = read_arrays(files("blockzoo.tasks.series") / "internal_bleeding.npz")
        train, test = (
            SeriesTable(("pressure",), arrays[part].astype(np.float64), None, np.arange(len(arrays[part])) + 1)
            for part in ("train", "test")
        )
        return train, test, arrays["label"]

    @property
    def preprocessing(self) -> dict[str, Any]:
        """See `AnomalyFiles.preprocessing`; nothing is said about files, since none was read."""
        kept = super().preprocessing
        kept["series"].pop("reading")
        return kept

    @property
    def description(self) -> dict[str, str]:
        """See `ZooData.description`."""
        return {"dataset": "InternalBleeding16", "license": "see NOTICE", "split": self._split}
