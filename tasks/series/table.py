"""Tables of series: a CSV file with a row for each step, read so that every problem has a line and a column."""

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import numpy as np

__all__ = ["MISSING", "Irregular", "SeriesTable", "future_dates", "parse_cell", "past_dates", "read_table"]

MISSING = ("", "na", "n/a", "nan", "null", "none", "?")
"""Cells that stand for a missing value, whatever their case."""

Irregular = Literal["fill", "error", "ignore"]

_DATE_FORMATS = ("%Y/%m/%d %H:%M", "%Y/%m/%d %H:%M:%S", "%Y/%m/%d", "%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%d.%m.%Y",
                 "%Y-%m", "%Y")  # fmt: skip


@dataclass(frozen=True)
class SeriesTable:
    """Steps of one multivariate series.

    Attributes:
        columns: Names of the channels.
        values: float64 (steps, channels), NaN where a value is missing.
        dates: datetime64[ms] (steps,), or None.
        lines: Line of the file that each step comes from, 0 for a step that the file leaves out, (steps,).
        irregular_steps: Distances between dates that are not the usual one.
    """

    columns: tuple[str, ...]
    values: np.ndarray
    dates: np.ndarray | None
    lines: np.ndarray
    irregular_steps: int = 0
    path: str = field(default="", compare=False)

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
    path: str | Path,
    columns: Sequence[str] | None = None,
    date_column: str | None = "date",
    date_format: str | None = None,
    delimiter: str = ",",
    missing_values: Sequence[str] = (),
    irregular: Irregular = "fill",
) -> SeriesTable:
    """Read a CSV file: a header, then a row for each step, in the order of time.

    Args:
        path: The file, UTF-8.
        columns: Channels to read; by default all but the date. Other columns may hold anything.
        date_column: Name of the column of dates; None if there is none.
        date_format: As in `datetime.strptime`; by default ISO 8601 and a few unambiguous formats are tried on the first
            row. Dates with an offset are turned into UTC.
        delimiter: Between cells.
        missing_values: Cells that stand for missing values beside `MISSING`, such as "-9999".
        irregular: What to do where the distance of dates is not the usual one: "fill" adds steps without values where
            rows are left out (and refuses dates between the steps); "error" refuses; "ignore" takes rows as they stand
            for consecutive steps, even repeated or unsorted ones.

    Raises:
        ValueError: The file is not like that; the message names the line and the column.
        FileNotFoundError: There is no such file.
    """
    if irregular not in ("fill", "error", "ignore"):
        raise ValueError(f"irregular={irregular!r} must be 'fill', 'error' or 'ignore'")
    with Path(path).open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, delimiter=delimiter)
        header = [name.strip() for name in next(reader, [])]
        places = _places(str(path), header, columns, date_column, delimiter)
        where = header.index(date_column) if date_column is not None else -1
        names = [header[place] for place in places]
        blank = {text.strip().lower() for text in (*MISSING, *missing_values)}
        rows, lines, texts = [], [], []
        for line, cells in _rows(str(path), reader, len(header)):
            rows.append(_numbers(str(path), line, names, [cells[place] for place in places], blank))
            lines.append(line)
            texts.append(cells[where] if where >= 0 else "")
    if not rows:
        raise ValueError(f"{path}: no rows below the header")
    values, numbers = np.array(rows), np.array(lines)
    if date_column is None:
        return SeriesTable(tuple(names), values, None, numbers, path=str(path))
    dates = _dates(str(path), date_column, texts, lines, date_format)
    return _on_grid(SeriesTable(tuple(names), values, dates, numbers, path=str(path)), date_column, irregular)


def _places(
    path: str, header: list[str], columns: Sequence[str] | None, date_column: str | None, delimiter: str
) -> list[int]:
    if len(header) == 1 and any(other in header[0] for other in ";\t,|"):
        raise ValueError(f"{path}, line 1: one column {header[0]!r} with delimiter={delimiter!r}; is it another one?")
    for name in header:
        if header.count(name) > 1:
            raise ValueError(f"{path}, line 1: {header.count(name)} columns are named {name!r}")
    wanted = [name for name in header if name != date_column] if columns is None else list(columns)
    for name in [*wanted, *([date_column] if date_column is not None else [])]:
        if name not in header:
            hint = "; date_column=null reads a file without dates" if name == date_column else ""
            raise ValueError(f"{path}, line 1: no column {name!r}; there are {', '.join(map(repr, header))}{hint}")
    if not wanted:
        raise ValueError(f"{path}, line 1: no column besides {date_column!r}")
    return [header.index(name) for name in wanted]


def _rows(path: str, reader: Iterator[list[str]], width: int) -> Iterator[tuple[int, list[str]]]:
    for cells in reader:
        line = reader.line_num  # type: ignore[attr-defined]  # of csv's reader
        if not cells:
            continue
        if len(cells) != width:
            raise ValueError(f"{path}, line {line}: {len(cells)} cells, but the header has {width}")
        yield line, cells


def _numbers(path: str, line: int, names: list[str], cells: list[str], blank: set[str]) -> list[float]:
    try:
        numbers = list(map(float, cells))
        if all(map(math.isfinite, numbers)) and "_" not in "".join(cells) and blank.isdisjoint(cells):
            return numbers
    except ValueError:
        pass  # cell by cell below, where each is named
    return [parse_cell(path, line, name, cell, blank) for name, cell in zip(names, cells, strict=True)]


def parse_cell(path: str, line: int, column: str, text: str, blank: set[str]) -> float:
    """The number in a cell, NaN for one of `blank`.

    Raises:
        ValueError: It is neither, or not finite; the message names line and column.
    """
    stripped = text.strip()
    if stripped.lower() in blank:
        return math.nan
    try:
        value = math.nan if "_" in stripped else float(stripped)  # Python's 1_000 is no number in a table
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(
            f"{path}, line {line}, column {column!r}: {text!r} is not a finite number (missing values are empty or one "
            f"of {', '.join(sorted(blank - {''}))}; missing_values adds others, columns chooses what is read)"
        )
    return value


def _dates(path: str, column: str, texts: list[str], lines: list[int], date_format: str | None) -> np.ndarray:
    formats = [date_format] if date_format is not None else [None, *_DATE_FORMATS]
    chosen = next((known for known in formats if _date(texts[0].strip(), known) is not None), "none")
    parsed = []
    for text, line in zip(texts, lines, strict=True):
        date = _date(text.strip(), chosen) if chosen != "none" else None
        if date is None:
            like = f"not like {date_format!r}" if date_format else "not a date in a known format"
            like = f"not like the first one, {texts[0]!r}" if chosen != "none" and not date_format else like
            hint = "" if date_format else "; date_format gives one, for example '%d/%m/%Y %H:%M'"
            raise ValueError(f"{path}, line {line}, column {column!r}: {text!r} is {like}{hint}")
        parsed.append(date)
    return np.array(parsed, dtype="datetime64[ms]")


def _date(text: str, date_format: str | None) -> datetime | None:
    try:
        date = datetime.fromisoformat(text) if date_format is None else datetime.strptime(text, date_format)
    except ValueError:
        return None
    return date.astimezone(timezone.utc).replace(tzinfo=None) if date.tzinfo else date


def _on_grid(table: SeriesTable, column: str, irregular: Irregular) -> SeriesTable:
    """Check that dates go forward in equal steps, or make them."""
    dates, lines, path = table.dates, table.lines, table.path
    assert dates is not None
    if len(dates) < 2:
        return table
    steps, size = _steps(dates)
    odd = np.diff(steps) != size
    if irregular == "ignore":
        return SeriesTable(table.columns, table.values, dates, lines, int(odd.sum()), path)
    for i in np.flatnonzero(np.diff(dates).astype(np.int64) <= 0)[:1]:
        what = "repeats that of" if dates[i + 1] == dates[i] else f"{dates[i + 1]} comes before {dates[i]} in"
        raise ValueError(
            f"{path}, line {lines[i + 1]}, column {column!r}: the date {what} line {lines[i]}; "
            "sort the rows, or take them as they stand with irregular=ignore"
        )
    for i in np.flatnonzero(odd)[:1]:
        if irregular == "error":
            raise ValueError(
                f"{path}, line {lines[i + 1]}, column {column!r}: {dates[i + 1]} does not follow {dates[i]} by the "
                "usual step; irregular=fill adds the missing steps"
            )
    positions = (steps - steps[0]) / size
    for i in np.flatnonzero(positions != np.round(positions))[:1]:
        raise ValueError(
            f"{path}, line {lines[i]}, column {column!r}: {dates[i]} is not a whole number of steps after the first "
            "date; irregular=ignore takes rows as they stand for consecutive steps"
        )
    count = int(positions[-1]) + 1
    if count > 10 * len(dates):
        i = int(np.diff(steps).argmax())
        raise ValueError(
            f"{path}, line {lines[i + 1]}, column {column!r}: {int(positions[i + 1] - positions[i]) - 1} steps are "
            f"missing between {dates[i]} and {dates[i + 1]}; is the date right?"
        )
    if count == len(dates):
        return table
    places = positions.astype(np.int64)
    values = np.full((count, table.values.shape[1]), np.nan)
    filled_lines = np.zeros(count, dtype=lines.dtype)
    values[places], filled_lines[places] = table.values, lines
    return SeriesTable(table.columns, values, _continued(dates, np.arange(count)), filled_lines, 0, path)


def _steps(dates: np.ndarray) -> tuple[np.ndarray, int]:
    """Dates as whole numbers, and their usual distance.

    They count months where each date is at the same place of its month, else milliseconds.
    """
    by_month = _months(dates)
    numbers = dates.astype(np.int64) if by_month is None else by_month
    found, counts = np.unique(np.diff(numbers), return_counts=True)
    positive = found > 0
    return numbers, int(found[positive][counts[positive].argmax()]) if positive.any() else 1


def _months(dates: np.ndarray) -> np.ndarray | None:
    months = dates.astype("datetime64[M]")
    within = dates - months.astype("datetime64[ms]")
    left = (months + 1).astype("datetime64[ms]") - dates
    same = bool((within == within[0]).all() or (left == left[0]).all())
    return months.astype(np.int64) if same and len(np.unique(months)) == len(months) else None


def _continued(dates: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The dates at whole numbers of steps after the first."""
    by_month = _months(dates)
    numbers, size = _steps(dates)
    if by_month is None:
        return (numbers[0] + positions * size).astype("datetime64[ms]")
    months = (by_month[0] + positions * size).astype("datetime64[M]")
    first = dates.astype("datetime64[M]")
    within = dates - first.astype("datetime64[ms]")
    if (within == within[0]).all():
        return months.astype("datetime64[ms]") + within[0]
    return (months + 1).astype("datetime64[ms]") - ((first[0] + 1).astype("datetime64[ms]") - dates[0])


def future_dates(dates: np.ndarray, count: int) -> np.ndarray:
    """The next dates after some (at least two), datetime64[ms] (count,): months stay months."""
    numbers, size = _steps(dates)
    last = round((int(numbers[-1]) - int(numbers[0])) / size)
    return _continued(dates, last + 1 + np.arange(count))


def past_dates(dates: np.ndarray, count: int) -> np.ndarray:
    """The dates before some (at least two), datetime64[ms] (count,), in order."""
    return _continued(dates, np.arange(-count, 0))
