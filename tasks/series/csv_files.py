"""Data modules over one long series in a CSV file, for forecasting and imputation."""

from dataclasses import replace
from importlib.resources import files
from typing import Any, Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_info

from blockzoo.tasks.core.data import ZooData
from blockzoo.tasks.core.packaged import read_arrays
from blockzoo.tasks.series.calendar import calendar_features, time_freq_of
from blockzoo.tasks.series.table import Reading, SeriesTable, read_table
from blockzoo.tasks.series.time_axis import Irregular
from blockzoo.tasks.series.windows import PARTS, Split, Windows, channel_statistics, part_rows

__all__ = ["CSVSeries", "Daphnet"]


class CSVSeries(ZooData):
    """Windows over a multivariate series, by the protocol of the long-term forecasting literature.

    Rows are split in the order of time; channels are standardised by the training part's observed values only. Missing
    values are masked, never dropped: samples then have masks (see `Windows`), and their number is printed.

    Args:
        path: A CSV file with a header and a row for each step; see `read_table`, also for the next options.
        target: Channel of features "S" and "MS".
        features: "M": all channels from all channels; "S": the target from itself; "MS": the target, put last, from all
            channels.
        columns: Channels to read; by default all but the date.
        date_column: Column of the dates; None for none.
        date_format: Format of the dates, if it is not recognised.
        delimiter: Between cells.
        missing_values: Further cells that stand for missing values.
        irregular: "fill", "error" or "ignore".
        decimal: "." or ",".
        thousands: Character between groups of three digits; None for none.
        encoding: Of the text, if it is not UTF-8.
        seq_len: Steps of an input.
        pred_len: Steps of a target; 0 for imputation.
        time_freq: Frequency of the calendar features, which must be the model's; None for none.
        split: "ratio", "ett_hour" or "ett_minute"; see `part_rows`.
        ratios: Shares of training, validation and test.
        look_back: Whether inputs of validation and test may reach back into the part before, which for a forecast shows
            nothing of its targets; by default exactly when `pred_len` is not 0.
        scale: Standardise channels.
        stride: Steps from one training sample to the next.
        eval_stride: Steps from one validation or test sample to the next.
        batch_size: Samples in a batch, on each device.
        num_workers: Processes that prepare batches.

    Raises:
        ValueError: An option or a cell does not fit; `setup` says which, and where.
    """

    def __init__(
        self,
        path: str,
        target: str | None = None,
        features: Literal["M", "S", "MS"] = "M",
        columns: list[str] | None = None,
        date_column: str | None = "date",
        date_format: str | None = None,
        delimiter: str = ",",
        missing_values: list[str] | None = None,
        irregular: Irregular = "fill",
        decimal: str = ".",
        thousands: str | None = None,
        encoding: str | None = None,
        seq_len: int = 96,
        pred_len: int = 96,
        time_freq: str | None = "h",
        split: Split = "ratio",
        ratios: tuple[float, float, float] = (0.7, 0.1, 0.2),
        look_back: bool | None = None,
        scale: bool = True,
        stride: int = 1,
        eval_stride: int = 1,
        batch_size: int = 32,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers)
        for name, value, least in (
            ("seq_len", seq_len, 1), ("pred_len", pred_len, 0), ("stride", stride, 1), ("eval_stride", eval_stride, 1)
        ):  # fmt: skip
            if value < least:
                raise ValueError(f"{name}={value} must be at least {least}")
        if features != "M" and target is None:
            raise ValueError(f"target=None, but features={features!r} needs the name of a column")
        if time_freq is not None and date_column is None:
            raise ValueError(f"time_freq={time_freq!r} needs dates; set it to null, also for the model, or date_column")
        self.path, self.target, self.features, self.columns = path, target, features, columns
        self.reading = Reading(
            date_column, date_format, delimiter, tuple(missing_values or ()), irregular, decimal, thousands, encoding
        )
        self.seq_len, self.pred_len, self.time_freq = seq_len, pred_len, time_freq
        self.split, self.ratios, self.scale = split, ratios, scale
        self.look_back = pred_len > 0 if look_back is None else look_back
        self.stride, self.eval_stride = stride, eval_stride
        self.table: SeriesTable | None = None
        self.mean, self.std = np.zeros(0), np.ones(0)
        self.rows: dict[str, range] = {}

    def read(self) -> SeriesTable:
        """The series, its channels in the model's order."""
        columns = [self.target] if self.features == "S" and self.target else self.columns
        table = read_table(self.path, columns, **self.reading.options())
        if self.features != "MS":
            return table
        if self.target not in table.columns:
            raise ValueError(f"target={self.target!r} is not among the channels, {', '.join(table.columns)}")
        order = [i for i, name in enumerate(table.columns) if name != self.target]
        order.append(table.columns.index(self.target))
        names = tuple(table.columns[i] for i in order)
        return replace(table, columns=names, values=table.values[:, order])

    def setup(self, stage: str) -> None:
        """Read, split, standardise and cut, for every stage."""
        if self.datasets:
            return
        table = self.table = self.read()
        if table.missing or table.irregular_steps:
            rank_zero_info(table.report())
        back = self.seq_len if self.look_back else 0
        self.rows = part_rows(len(table.values), self.split, self.ratios, back)
        count = len(table.columns)
        self.mean, self.std = np.zeros(count), np.ones(count)
        if self.scale:
            self.mean, self.std = channel_statistics(table.values[self.rows["train"].start : self.rows["train"].stop])
        self._check_observed(table)
        values = (table.values - self.mean) / self.std
        times = None
        if self.time_freq is not None and table.dates is not None:
            assert table.local is not None
            times = calendar_features(table.local, self.time_freq)
            if len(table.dates) > 1 and (found := time_freq_of(table.dates)) != self.time_freq:
                rank_zero_info(f"{table.path}: time_freq={self.time_freq!r}, while the dates look like {found!r}")
        for part in PARTS:
            stride = self.stride if part == "train" else self.eval_stride
            windows = Windows(values, times, self.rows[part], self.seq_len, self.pred_len, stride)
            if len(windows):
                self.datasets[part] = windows
            elif len(self.rows[part]) - back > 0 or part == "train":
                raise ValueError(
                    f"{table.path}: the {part} part has {len(self.rows[part])} of {len(values)} rows, too few for one "
                    f"window of seq_len={self.seq_len} and pred_len={self.pred_len} steps"
                )

    def _check_observed(self, table: SeriesTable) -> None:
        """Refuse channels that the training part never observes, and parts without a single target."""
        rows = self.rows["train"]
        observed = ~np.isnan(table.values)
        empty = [name for name, any_ in zip(table.columns, observed[rows.start : rows.stop].any(0), strict=True)
                 if not any_]  # fmt: skip
        if empty:
            where = (
                "anywhere"
                if set(empty) <= set(table.never_observed)
                else f"in the training part, rows 0 to {rows.stop - 1}"
            )
            raise ValueError(
                f"{table.path}: no value of {', '.join(map(repr, empty))} {where}; columns chooses what is read"
            )
        targets = observed[:, -1:] if self.features == "MS" else observed
        back = self.seq_len if self.look_back else 0
        for part in PARTS[1:]:
            own = targets[min(self.rows[part].start + back, self.rows[part].stop) : self.rows[part].stop]
            if len(own) and not own.any():
                raise ValueError(f"{table.path}: no target is observed in the {part} part, so it has no metrics")

    @property
    def num_targets(self) -> int:
        """Channels at the end that count, from all in the loss and the metrics."""
        return 1 if self.features == "MS" else len(self.mean)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Per-channel `mean` and `std`, and how a file of the same kind is read (`series`)."""
        columns = list(self.table.columns) if self.table else []
        kept: dict[str, Any] = {
            "columns": columns,
            "features": self.features,
            "target": self.target,
            "time_freq": self.time_freq,
        }
        kept["reading"] = self.reading.options()
        if self.table and self.table.dates is not None and len(self.table.dates) > 1:
            kept["step"] = float(np.median(np.diff(self.table.dates).astype(np.int64))) / 1000
        return {"mean": self.mean.tolist(), "std": self.std.tolist(), "series": kept}

    @property
    def description(self) -> dict[str, str]:
        """See `ZooData.description`."""
        return {"dataset": self._report, "license": "unknown", "split": self._split}

    @property
    def _report(self) -> str:
        return self.table.report() if self.table else self.path

    @property
    def _split(self) -> str:
        ends = [f"{name} rows {rows.start} to {rows.stop - 1}" for name, rows in self.rows.items()]
        back = f", inputs of validation and test from up to {self.seq_len} rows before" if self.look_back else ""
        return f"in the order of time: {', '.join(ends)}{back}"


class Daphnet(CSVSeries):
    """Nine accelerations at ankle, thigh and trunk of a walking patient, 110 s at 64 Hz, in mg; packaged.

    Run S06R02E0 of "Wearable Assistant for Parkinson's Disease Patients With the Freezing of Gait Symptom" (2010),
    through the UCI archive (CC BY 4.0). Arguments as for `CSVSeries`.
    """

    def __init__(
        self,
        seq_len: int = 96,
        pred_len: int = 0,
        ratios: tuple[float, float, float] = (0.7, 0.1, 0.2),
        stride: int = 1,
        eval_stride: int = 1,
        batch_size: int = 16,
        num_workers: int = 0,
    ) -> None:
        super().__init__(
            "Daphnet S06R02E0", date_column=None, seq_len=seq_len, pred_len=pred_len, time_freq=None, ratios=ratios,
            stride=stride, eval_stride=eval_stride, batch_size=batch_size, num_workers=num_workers,
        )  # fmt: skip

    def read(self) -> SeriesTable:
        """The packaged series."""
        arrays = read_arrays(files("blockzoo.tasks.series") / "daphnet.npz")
        values = arrays["values"].astype(np.float64)
        names = tuple(str(name) for name in arrays["columns"])
        return SeriesTable(names, values, None, np.arange(1, len(values) + 1), path=self.path)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """See `CSVSeries.preprocessing`; nothing is said about files, since none was read."""
        kept = super().preprocessing
        kept["series"].pop("reading")
        return kept

    @property
    def description(self) -> dict[str, str]:
        """See `ZooData.description`."""
        return {"dataset": "Daphnet S06R02E0", "license": "CC-BY-4.0", "split": self._split}
