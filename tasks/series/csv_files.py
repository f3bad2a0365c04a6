"""Data modules over long series in tables, for forecasting and imputation."""

from dataclasses import replace
from importlib.resources import files
from typing import Any, Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_info

from blockzoo.tasks.core.data import ZooData
from blockzoo.tasks.core.packaged import read_arrays
from blockzoo.tasks.series.calendar import calendar_features, time_freq_of
from blockzoo.tasks.series.covariates import Covariates
from blockzoo.tasks.series.table import Reading, SeriesTable, read_series
from blockzoo.tasks.series.time_axis import Irregular
from blockzoo.tasks.series.windows import PARTS, ManyWindows, Split, Windows, channel_statistics, part_rows

__all__ = ["CSVSeries", "Daphnet"]


class CSVSeries(ZooData):
    """Windows over a multivariate series, by the protocol of the long-term forecasting literature.

    Rows are split in the order of time; channels are standardised by the training part's observed values only. Missing
    values are masked, never dropped: samples then have masks (see `Windows`), and their number is printed.

    Tables of many series ("long" format) have a window set over all of them; each series is split by itself, and
    standardised by its own training part.

    Args:
        path: A table with a header and a row for each step; see `read_table`, also for the options from `date_column`
            to `encoding`. `from_frame` takes a DataFrame instead.
        target: Channel or channels of features "S" and "MS".
        features: "M": all channels from all channels; "S": the targets from themselves, or, without `target`, every
            column as a series by itself; "MS": the targets, put last, from all channels, of which the others are past
            covariates.
        columns: Channels to read; by default all columns that mean nothing else.
        date_column: Column of the dates; None for none.
        date_format: Format of the dates, if it is not recognised.
        delimiter: Between cells.
        missing_values: Further cells that stand for missing values.
        irregular: "fill", "error" or "ignore".
        decimal: "." or ",".
        thousands: Character between groups of three digits; None for none.
        encoding: Of the text, if it is not UTF-8.
        id_column: Column with the name of each row's series, in a table of many; it need not be there by the default
            name.
        time_zone: Zone of the dates, such as "Europe/Berlin".
        closed: Holidays that a series of working days leaves out: a country, an exchange, or a file of dates.
        known: Columns of covariates that are known for the steps to forecast too. Rows behind the last value of the
            channels, with covariates alone, are the future that `predict` forecasts.
        calendar: Further covariates that are known ahead, from the dates; see `calendar_covariates`.
        static: Columns with one value for each series.
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
        target: str | list[str] | None = None,
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
        id_column: str | None = "unique_id",
        time_zone: str | None = None,
        closed: str | None = None,
        known: list[str] | None = None,
        calendar: list[str] | None = None,
        static: list[str] | None = None,
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
        self.targets = [target] if isinstance(target, str) else list(target or ())
        if features == "MS" and not self.targets:
            raise ValueError(f"target=None, but features={features!r} needs the name of a column")
        if time_freq is not None and date_column is None:
            raise ValueError(f"time_freq={time_freq!r} needs dates; set it to null, also for the model, or date_column")
        if pred_len == 0 and (known or calendar or static):
            raise ValueError("pred_len=0: known, calendar and static are covariates of forecasts")
        self.path, self.target, self.features, self.columns = path, target, features, columns
        self.source: Any = path
        self.reading = Reading(
            date_column, date_format, delimiter, tuple(missing_values or ()), irregular, decimal, thousands, encoding,
            id_column, time_zone, closed,
        )  # fmt: skip
        self.covariates = Covariates(known or (), calendar or (), static or ())
        self.seq_len, self.pred_len, self.time_freq = seq_len, pred_len, time_freq
        self.split, self.ratios, self.scale = split, ratios, scale
        self.look_back = pred_len > 0 if look_back is None else look_back
        self.stride, self.eval_stride = stride, eval_stride
        self.table: SeriesTable | None = None
        self.tables: dict[str, SeriesTable] = {}
        self.mean, self.std = np.zeros(0), np.ones(0)
        self.rows: dict[str, range] = {}

    @classmethod
    def from_frame(cls, frame: Any, **options: Any) -> "CSVSeries":
        """A module over a table in memory.

        Args:
            frame: A DataFrame of pandas or polars, or a table of pyarrow; see `read_table`.
            **options: The other arguments, by name.
        """
        data = cls("DataFrame", **options)
        data.source = frame
        return data

    @property
    def num_known(self) -> int:
        """Covariates of each step that are known ahead."""
        return self.covariates.num_known

    @property
    def num_static(self) -> int:
        """Covariates of each series as a whole."""
        return self.covariates.num_static

    def read(self) -> dict[str, SeriesTable]:
        """The series by name, with the covariates that are known ahead as columns behind the channels."""
        known, static = list(self.covariates.known), list(self.covariates.static)
        columns = list(self.targets) if self.features == "S" and self.targets else self.columns
        if columns is not None:
            columns = [*columns, *(name for name in known if name not in columns)]
        return read_series(self.source, self.reading, columns, static)

    def _split_columns(self, tables: dict[str, SeriesTable]) -> dict[str, tuple[SeriesTable, np.ndarray]]:
        """Series with their channels alone, in the model's order, and what is known ahead, (steps, K)."""
        found = {}
        known = self.covariates.known
        for name, table in tables.items():
            channels = [column for column in table.columns if column not in known]
            if not channels:
                raise ValueError(f"{table.path}: no channel besides known={list(known)}")
            for target in self.targets if self.features == "MS" else ():
                if target not in channels:
                    raise ValueError(f"target={target!r} is not among the channels, {', '.join(channels)}")
            if self.features == "MS":
                channels = [column for column in channels if column not in self.targets] + self.targets
            ahead = table.take(known).values
            if self.features == "S" and not self.targets and len(channels) > 1:
                for column in channels:
                    key = f"{name}/{column}" if name else column
                    single = replace(table.take([column]), path=f"{table.path}, column {column!r}")
                    found[key] = single.trimmed(), ahead
            else:
                found[name] = table.take(channels).trimmed() if known else table.take(channels), ahead
        return found

    def setup(self, stage: str) -> None:
        """Read, split, standardise and cut, for every stage."""
        if self.datasets:
            return
        series = self._split_columns(self.read())
        many = len(series) > 1
        back = self.seq_len if self.look_back else 0
        borders = {}
        for name, (table, _) in series.items():
            rows = part_rows(len(table.values), self.split, self.ratios, back)
            if not many or len(rows["train"]) >= self.seq_len + self.pred_len:
                borders[name] = rows
        short = [name for name in series if name not in borders]
        if short:
            if not borders:
                raise ValueError(
                    f"{self.path}: the training part of none of {len(series)} series has the {self.seq_len} + "
                    f"{self.pred_len} steps of one window"
                )
            rank_zero_info(f"{self.path}: {len(short)} of {len(series)} series are too short ({', '.join(short[:5])})")
        self.tables = {name: series[name][0] for name in borders}
        self.table, self.rows = next(iter(self.tables.values())), next(iter(borders.values()))
        self._tell(many)
        ahead = {name: series[name][1] for name in borders}
        self.covariates.fit(
            np.concatenate([ahead[name][: rows["train"].stop] for name, rows in borders.items()]),
            [table.labels for table in self.tables.values()],
        )
        cut = {name: self._windows(table, borders[name], ahead[name]) for name, table in self.tables.items()}
        if not many:
            windows, self.mean, self.std = cut[next(iter(cut))]
            self._keep(windows, self.table, back)
            return
        count = len(self.table.columns)
        self.mean, self.std = np.zeros(count), np.ones(count)
        for part in PARTS:
            found = [(windows[part], mean, std) for windows, mean, std in cut.values() if len(windows[part])]
            if found:
                parts, means, stds = zip(*found, strict=True)
                names = [name for name, (windows, _, _) in cut.items() if len(windows[part])]
                self.datasets[part] = ManyWindows(parts, np.stack(stds), np.stack(means), names)

    def _windows(
        self, table: SeriesTable, rows: dict[str, range], ahead: np.ndarray
    ) -> tuple[dict[str, Windows], np.ndarray, np.ndarray]:
        """Windows of one series by part, and the mean and deviation of its channels."""
        count = len(table.columns)
        mean, std = np.zeros(count), np.ones(count)
        if self.scale:
            mean, std = channel_statistics(table.values[rows["train"].start : rows["train"].stop])
        self._check_observed(table, rows)
        values = (table.values - mean) / std
        times = None
        if self.time_freq is not None and table.local is not None:
            times = calendar_features(table.local, self.time_freq)
        known = self.covariates.known_of(table, ahead[: len(table.values)])
        static = self.covariates.static_of(table.path, table.labels)
        windows = {
            part: Windows(
                values, times, rows[part], self.seq_len, self.pred_len,
                self.stride if part == "train" else self.eval_stride, known=known, static=static,
            )
            for part in PARTS
        }  # fmt: skip
        return windows, mean, std

    def _keep(self, windows: dict[str, Windows], table: SeriesTable, back: int) -> None:
        """Take over the windows of a single series, all of whose parts must be long enough."""
        for part in PARTS:
            if len(windows[part]):
                self.datasets[part] = windows[part]
            elif len(self.rows[part]) - back > 0 or part == "train":
                raise ValueError(
                    f"{table.path}: the {part} part has {len(self.rows[part])} of {len(table.values)} rows, too few "
                    f"for one window of seq_len={self.seq_len} and pred_len={self.pred_len} steps"
                )

    def _tell(self, many: bool) -> None:
        """Say what is missing and whether the frequency of the dates is another one."""
        tables = list(self.tables.values())
        told = [table for table in tables if table.missing or table.irregular_steps]
        for table in told[:3]:
            rank_zero_info(table.report())
        if len(told) > 3:
            rank_zero_info(f"{self.path}: {len(told) - 3} more series have missing values")
        for table in tables[:1]:
            if self.time_freq is not None and table.dates is not None and len(table.dates) > 1:
                found = time_freq_of(table.dates)
                if found != self.time_freq:
                    rank_zero_info(f"{table.path}: time_freq={self.time_freq!r}, while the dates look like {found!r}")

    def _check_observed(self, table: SeriesTable, borders: dict[str, range]) -> None:
        """Refuse channels that the training part never observes, and parts without a single target."""
        rows = borders["train"]
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
        targets = observed[:, -len(self.targets) :] if self.features == "MS" else observed
        back = self.seq_len if self.look_back else 0
        for part in PARTS[1:]:
            own = targets[min(borders[part].start + back, borders[part].stop) : borders[part].stop]
            if len(own) and not own.any():
                raise ValueError(f"{table.path}: no target is observed in the {part} part, so it has no metrics")

    @property
    def num_targets(self) -> int:
        """Channels at the end that count, from all in the loss and the metrics."""
        return len(self.targets) if self.features == "MS" else len(self.mean)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Per-channel `mean` and `std`, and how a file of the same kind is read (`series`)."""
        every = self.features == "S" and not self.targets  # each column is a series, whatever its name
        columns = list(self.table.columns) if self.table and not every else []
        kept: dict[str, Any] = {
            "columns": columns,
            "features": self.features,
            "target": self.target,
            "time_freq": self.time_freq,
        }
        kept["reading"] = self.reading.options()
        if self.table and self.table.dates is not None and len(self.table.dates) > 1:
            kept["step"] = float(np.median(np.diff(self.table.dates).astype(np.int64))) / 1000
        if self.covariates.num_known or self.covariates.static:
            kept["covariates"] = self.covariates.options()
        return {"mean": self.mean.tolist(), "std": self.std.tolist(), "series": kept}

    @property
    def description(self) -> dict[str, str]:
        """See `ZooData.description`."""
        return {"dataset": self._report, "license": "unknown", "split": self._split}

    @property
    def _report(self) -> str:
        if len(self.tables) > 1:
            steps = [len(table.values) for table in self.tables.values()]
            return f"{self.path}: {len(steps)} series of {min(steps)} to {max(steps)} steps"
        return self.table.report() if self.table else self.path

    @property
    def _split(self) -> str:
        if len(self.tables) > 1:
            ends = [f"{share:.0%} {part}" for part, share in zip(PARTS, self.ratios, strict=True)]
        else:
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

    def read(self) -> dict[str, SeriesTable]:
        """The packaged series."""
        arrays = read_arrays(files("blockzoo.tasks.series") / "daphnet.npz")
        values = arrays["values"].astype(np.float64)
        names = tuple(str(name) for name in arrays["columns"])
        return {"": SeriesTable(names, values, None, np.arange(1, len(values) + 1), path=self.path)}

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
