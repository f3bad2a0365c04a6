"""Reading of tables of series: a row for each step; error messages name the line and the column."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

import numpy as np

from blockzoo.tasks.series.calendar import closed_days
from blockzoo.tasks.series.cells import blank_cells
from blockzoo.tasks.series.columns import (
    channel_columns,
    date_column_of,
    guessed_date_column,
    nameless_column,
    refuse_long,
)
from blockzoo.tasks.series.dates import offset_text
from blockzoo.tasks.series.table_files import Source, open_source
from blockzoo.tasks.series.time_axis import (
    Irregular,
    clock_dates,
    future_dates,
    grid_of,
    in_zone,
    past_dates,
    repeated_hours,
    zone_offsets,
)

__all__ = ["Reading", "SeriesTable", "read_header", "read_series", "read_table"]


@dataclass(frozen=True)
class Reading:
    """How a table is read; see `read_table` for the fields."""

    date_column: str | None = "date"
    date_format: str | None = None
    delimiter: str = ","
    missing_values: tuple[str, ...] = ()
    irregular: Irregular = "fill"
    decimal: str = "."
    thousands: str | None = None
    encoding: str | None = None
    id_column: str | None = "unique_id"
    time_zone: str | None = None
    closed: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "missing_values", tuple(self.missing_values))
        object.__setattr__(self, "delimiter", "\t" if self.delimiter in ("\\t", "tab") else self.delimiter)
        if self.irregular not in ("fill", "error", "ignore"):
            raise ValueError(f"irregular={self.irregular!r} must be 'fill', 'error' or 'ignore'")
        if len(self.delimiter) != 1 or self.delimiter in '"\r\n':
            raise ValueError(f"delimiter={self.delimiter!r} must be one character, such as ',' or ';', or '\\t'")
        if self.decimal not in (".", ","):
            raise ValueError(f"decimal={self.decimal!r} must be '.' or ','")
        if self.thousands is not None and (len(self.thousands) != 1 or self.thousands in self.decimal + "+-0123456789"):
            raise ValueError(f"thousands={self.thousands!r} must be one character that is not decimal={self.decimal!r}")

    def options(self) -> dict[str, Any]:
        """The fields as plain values."""
        return {**asdict(self), "missing_values": list(self.missing_values)}


@dataclass(frozen=True)
class SeriesTable:
    """Steps of one multivariate series.

    Attributes:
        columns: Names of the channels.
        values: float64 (steps, channels), NaN where a value is missing.
        dates: datetime64[ms] (steps,), always going forward, or None. In UTC where the file gives offsets.
        lines: Line of the file that each step comes from, 0 for a step that the file leaves out, (steps,).
        irregular_steps: Distances between dates that are not the usual one.
        path: The file.
        offsets: Minutes from `dates` to the local clock, int64 (steps,); None where `dates` are the local clock.
        zoned: Whether the file gives offsets from UTC.
        zone: Name of the local clock's time zone, if it is known.
        closed: Days that are no working days beside weekends, datetime64[D], or None.
        labels: Texts of columns that hold one value for the whole series, by column.
    """

    columns: tuple[str, ...]
    values: np.ndarray
    dates: np.ndarray | None
    lines: np.ndarray
    irregular_steps: int = 0
    path: str = field(default="", compare=False)
    offsets: np.ndarray | None = None
    zoned: bool = False
    zone: str | None = None
    closed: np.ndarray | None = field(default=None, compare=False)
    labels: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def local(self) -> np.ndarray | None:
        """Dates on the local clock, datetime64[ms] (steps,), or None."""
        if self.dates is None or self.offsets is None:
            return self.dates
        return cast(np.ndarray, self.dates + self.offsets.astype("timedelta64[m]"))

    @property
    def never_observed(self) -> list[str]:
        """Columns without a single value."""
        return [name for name, empty in zip(self.columns, np.isnan(self.values).all(0), strict=True) if empty]

    def take(self, columns: Sequence[str]) -> "SeriesTable":
        """The table with some of its columns, in the order given."""
        places = [self.columns.index(name) for name in columns]
        return replace(self, columns=tuple(columns), values=self.values[:, places])

    def trimmed(self) -> "SeriesTable":
        """The steps up to the last at which any channel has a value."""
        seen = np.flatnonzero(~np.isnan(self.values).all(1))
        return self.rows(0, int(seen[-1]) + 1) if len(seen) else self

    def rows(self, start: int, stop: int) -> "SeriesTable":
        """The steps from `start` to before `stop`."""
        part = slice(start, stop)
        dates, offsets = (None if axis is None else axis[part] for axis in (self.dates, self.offsets))
        return replace(self, values=self.values[part], lines=self.lines[part], dates=dates, offsets=offsets)

    def future(self, count: int) -> "SeriesTable":
        """The next `count` steps, without values; offsets are those of the time zone, else those of the last step.

        Raises:
            ValueError: There are fewer than two dates.
        """
        return self._steps(count, ahead=True)

    def past(self, count: int) -> "SeriesTable":
        """The `count` steps before the first, without values; offsets as in `future`, else those of the first step."""
        return self._steps(count, ahead=False)

    def _steps(self, count: int, ahead: bool) -> "SeriesTable":
        if self.dates is None or len(self.dates) < 2:
            raise ValueError(f"{self.path}: a series of fewer than two dates has no frequency")
        clock = clock_dates(self.dates, self.offsets)
        dates = (future_dates if ahead else past_dates)(clock, count, self.closed)
        offsets = None
        if self.zone is not None and self.offsets is not None:
            if clock is self.dates:
                offsets = zone_offsets(self.path, dates, self.zone)
            else:
                dates, offsets = in_zone(self.path, dates, self.zone)
        elif self.offsets is not None:
            offsets = np.full(count, self.offsets[-1 if ahead else 0])
            dates = dates if clock is self.dates else dates - offsets.astype("timedelta64[m]")
        values = np.full((count, len(self.columns)), np.nan)
        return replace(self, values=values, dates=dates, lines=np.zeros(count, np.int64), offsets=offsets)

    def date_texts(self) -> list[str]:
        """Dates as the file's own clock shows them, with its offsets from UTC if it gives them."""
        if self.local is None:
            raise ValueError(f"{self.path}: there are no dates")
        texts = [str(date).replace("T", " ").removesuffix(".000") for date in self.local.astype("datetime64[ms]")]
        if not self.zoned or self.offsets is None:
            return texts
        return [text + offset_text(int(minutes)) for text, minutes in zip(texts, self.offsets, strict=True)]

    @property
    def missing(self) -> dict[str, int]:
        """Missing values by column, of columns that have any; those of steps that were filled in count too."""
        counts = np.isnan(self.values).sum(0).tolist()
        return {name: count for name, count in zip(self.columns, counts, strict=True) if count}

    def report(self) -> str:
        """What is missing, in one sentence."""
        total, filled = sum(self.missing.values()), int((self.lines == 0).sum())
        text = f"{self.path}: {len(self.lines)} steps, {len(self.columns)} channels, {total} missing values"
        if self.missing:
            worst = sorted(self.missing.items(), key=lambda item: -item[1])[:5]
            text += f" ({', '.join(f'{name} {count}' for name, count in worst)}{', ..' * (len(self.missing) > 5)})"
        if filled:
            text += f", {filled} steps without a row"
        if self.irregular_steps:
            text += f", {self.irregular_steps} irregular distances between dates, which were ignored"
        return text


def read_table(
    path: Any,
    columns: Sequence[str] | None = None,
    date_column: str | None = "date",
    date_format: str | None = None,
    delimiter: str = ",",
    missing_values: Sequence[str] = (),
    irregular: Irregular = "fill",
    decimal: str = ".",
    thousands: str | None = None,
    encoding: str | None = None,
    id_column: str | None = "unique_id",
    time_zone: str | None = None,
    closed: str | None = None,
    optional_date: bool = False,
) -> SeriesTable:
    """Read a table of one series: a header, then a row for each step, in the order of time.

    Args:
        path: A CSV file, packed or not (gzip, bzip2, xz, zip, zstd), a Parquet, Arrow or Excel file (its first sheet);
            or a DataFrame of pandas or polars, or a table of pyarrow.
        columns: Channels to read; by default all but the date and the series' name. Other columns may hold anything. A
            column without a name that counts the rows is left out.
        date_column: Name of the column of dates; None if there is none. If there is no column `date`, the default takes
            the one that is named as in `DATE_NAMES`, or has no name and holds dates.
        date_format: As in `datetime.strptime`, or "s" or "ms" for seconds or milliseconds since 1970; by default ISO
            8601 and a few unambiguous formats are tried on the first row. Offsets from UTC are kept, and so is an hour
            that the clock repeats in autumn.
        delimiter: Between cells; a first line such as `sep=;` names another one.
        missing_values: Cells that stand for missing values beside `MISSING`, such as "-9999".
        irregular: What to do where the distance of dates is not the usual one: "fill" adds steps without values where
            rows are left out (and refuses dates between the steps); "error" refuses; "ignore" takes the rows as
            consecutive steps in the file's order, even with repeated or unsorted dates.
        decimal: "." or ",".
        thousands: Character between groups of three digits; None for none.
        encoding: Of the text; by default UTF-8, or UTF-16 with a byte order mark.
        id_column: Column with the name of the series that a row belongs to; it need not be there by the default name.
        time_zone: Zone of the dates, such as "Europe/Berlin": its summer time is known for the steps ahead and for rows
            that are left out, and dates with other offsets are shown on its clock.
        closed: Days beside weekends that a series of working days leaves out: a country or exchange, or a file of
            dates; see `closed_days`.
        optional_date: Read a file without dates if it has no column for the default `date_column`.

    Raises:
        ValueError: The file has another form; the message names the line and the column.
        FileNotFoundError: There is no such file.
    """
    reading = Reading(
        date_column, date_format, delimiter, tuple(missing_values), irregular, decimal, thousands, encoding, id_column,
        time_zone, closed,
    )  # fmt: skip
    found = _read(path, reading, columns, (), optional_date)
    if len(found) > 1:
        raise ValueError(
            f"{next(iter(found.values())).path} and {len(found) - 1} more by column {reading.id_column!r}, where one "
            "series is expected"
        )
    return next(iter(found.values()))


def read_series(
    path: Any,
    reading: Reading,
    columns: Sequence[str] | None = None,
    label_columns: Sequence[str] = (),
    optional_date: bool = False,
) -> dict[str, SeriesTable]:
    """Read a table of many series, each with its own steps, one below the other or in turns ("long" format).

    Args:
        path: See `read_table`.
        reading: How to read it; `id_column` names the series of each row. A file without it holds one series.
        columns: Channels to read; by default all but the date, the series' name and `label_columns`.
        label_columns: Columns with one text or number for each series as a whole.
        optional_date: See `read_table`.

    Returns:
        The series by name, in the order in which they begin; one series without a name is called "".

    Raises:
        ValueError: The file is not like that; the message names the line, the series and the column.
        FileNotFoundError: There is no such file.
    """
    return _read(path, reading, columns, label_columns, optional_date)


def _read(
    path: Any, reading: Reading, columns: Sequence[str] | None, label_columns: Sequence[str], optional_date: bool
) -> dict[str, SeriesTable]:
    source = open_source(path, reading.delimiter, reading.decimal, reading.thousands, reading.encoding)
    blank, name = blank_cells(reading.missing_values), source.path
    identity = reading.id_column if reading.id_column in source.header else None
    if reading.id_column not in (None, "unique_id", identity):
        raise ValueError(f"{name}, line 1: no column {reading.id_column!r}; there are {', '.join(source.header)}")
    beside = [*([identity] if identity else []), *label_columns]
    _load(source, columns, reading.date_column, beside, blank)
    date_column, unnamed = date_column_of(source, reading.date_column)
    if optional_date and date_column == "date" and "date" not in source.header:
        date_column = None
    channel_columns(name, source.header, label_columns or None, date_column, unnamed)
    wanted = channel_columns(name, source.header, columns, date_column, unnamed, beside)
    if not len(source.lines):
        raise ValueError(f"{name}: no rows below the header")
    dates, offsets = (None, None) if date_column is None else source.dates(date_column, reading.date_format)
    if dates is not None and identity is None:
        refuse_long(name, source, dates, date_column or "")
    values = source.numbers(wanted, blank)
    whole = SeriesTable(
        tuple(wanted), values, dates, source.lines, path=name, offsets=offsets, zoned=offsets is not None,
        zone=reading.time_zone, closed=_closed(reading.closed, dates),
    )  # fmt: skip
    labels = {column: source.cells(column) for column in label_columns}
    if identity is None:
        own = {column: _one_label(name, column, cells) for column, cells in labels.items()}
        return {"": _on_axis(replace(whole, labels=own), date_column, reading.irregular)}
    codes, names = _series_of(source, identity)
    order = np.argsort(codes, kind="stable")
    found = {}
    for series, rows in zip(names, np.split(order, np.cumsum(np.bincount(codes))[:-1]), strict=True):
        where = f"{name}, series {series!r}"
        own = {column: _one_label(where, column, cells.iloc[rows]) for column, cells in labels.items()}
        part = replace(
            whole, values=values[rows], lines=source.lines[rows], path=where, labels=own,
            dates=None if dates is None else dates[rows], offsets=None if offsets is None else offsets[rows],
        )  # fmt: skip
        found[series] = _on_axis(part, date_column, reading.irregular)
    return found


def _series_of(source: Source, column: str) -> tuple[np.ndarray, list[str]]:
    """The number of each row's series, and their names.

    Raises:
        ValueError: A row has no name.
    """
    import pandas as pd  # slow to import

    codes, names = pd.factorize(source.cells(column).str.strip())
    found = [str(name) for name in names]
    for place in np.flatnonzero(codes == (found.index("") if "" in found else -1))[:1]:
        raise ValueError(f"{source.path}, line {source.lines[place]}, column {column!r}: no name of a series")
    return codes, found


def _one_label(path: str, column: str, cells: Any) -> str:
    """The one text of a column that holds nothing else; empty cells do not count."""
    texts = sorted({text for text in cells.str.strip().unique().tolist() if text})
    if len(texts) != 1:
        raise ValueError(
            f"{path}, column {column!r}: {len(texts)} values ({', '.join(texts[:3])}), where a static column has one "
            "for the whole series"
        )
    return str(texts[0])


def _closed(name: str | None, dates: np.ndarray | None) -> np.ndarray | None:
    """Closed days of the years of some dates and of the 30 years behind them."""
    if name is None or dates is None or not len(dates):
        return None
    years = dates[[dates.argmin(), dates.argmax()]].astype("datetime64[Y]").astype(np.int64) + 1970
    return closed_days(name, range(int(years[0]), int(years[1]) + 31))


def _on_axis(table: SeriesTable, date_column: str | None, irregular: Irregular) -> SeriesTable:
    """The table on a clock that goes forward and a grid of equal steps."""
    dates, offsets = table.dates, table.offsets
    if dates is None or date_column is None:
        return table
    if table.zone is not None:
        if offsets is None:
            dates, offsets = in_zone(table.path, dates, table.zone)
        else:
            offsets = zone_offsets(table.path, dates, table.zone)
        table = replace(table, dates=dates, offsets=offsets, zoned=True)
    elif offsets is None:
        dates, offsets = repeated_hours(dates)
        table = replace(table, dates=dates, offsets=offsets)
    return _on_grid(table, date_column, irregular)


def _load(
    source: Source, columns: Sequence[str] | None, date_column: str | None, beside: Sequence[str], blank: set[str]
) -> None:
    """Read all columns at once that will probably be needed."""
    texts = [guessed_date_column(source.header, date_column), nameless_column(source.header), *beside]
    known = [name for name in texts if name in source.header and name is not None]
    wanted = source.header if columns is None else [name for name in columns if name in source.header]
    source.load([name for name in wanted if name not in known], known, blank)


def _on_grid(table: SeriesTable, column: str, irregular: Irregular) -> SeriesTable:
    """The table with a row for each step of its dates; see `grid_of`."""
    if table.dates is None or len(table.dates) < 2:
        return table
    dates, offsets = clock_dates(table.dates, table.offsets), table.offsets
    grid = grid_of(table.path, column, dates, table.lines, irregular, table.closed)
    count = len(grid.dates)
    if count == len(dates):
        return replace(table, irregular_steps=grid.irregular_steps)
    values = np.full((count, table.values.shape[1]), np.nan)
    lines = np.zeros(count, dtype=table.lines.dtype)
    values[grid.places], lines[grid.places] = table.values, table.lines
    whole = grid.dates
    if offsets is not None:
        # A step that the file leaves out has the offset of the step before it.
        last = np.maximum.accumulate(np.where(lines > 0, np.arange(count), 0))
        spread = np.zeros(count, dtype=np.int64)
        spread[grid.places] = offsets
        offsets = spread[last]
        whole = whole if dates is table.dates else whole - offsets.astype("timedelta64[m]")
        if table.zone is not None and dates is table.dates:
            offsets = zone_offsets(table.path, whole, table.zone)
        elif table.zone is not None:
            whole, offsets = in_zone(table.path, grid.dates, table.zone)
    return replace(table, values=values, dates=whole, lines=lines, offsets=offsets)


def read_header(path: Any, delimiter: str = ",", encoding: str | None = None) -> list[str]:
    """Names of the columns of a table, see `read_table`."""
    reading = Reading(delimiter=delimiter, encoding=encoding)
    return open_source(path, reading.delimiter, encoding=encoding).header
