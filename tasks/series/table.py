"""Tables of series: a file with a row for each step, read so that every problem has a line and a column."""

import csv
import gzip
import math
import re
import zlib
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal, cast

import numpy as np

__all__ = [
    "DATE_NAMES",
    "MISSING",
    "Irregular",
    "Reading",
    "SeriesTable",
    "future_dates",
    "named_text",
    "open_text",
    "parse_cell",
    "past_dates",
    "read_header",
    "read_table",
]

MISSING = ("", "na", "n/a", "nan", "null", "none", "?")
"""Cells that stand for a missing value, whatever their case."""

DATE_NAMES = ("date", "datetime", "date_time", "timestamp", "time", "ds", "month")
"""Names of columns, whatever their case, that are taken for the dates where there is no column `date`."""

Irregular = Literal["fill", "error", "ignore"]

_DATE_FORMATS = ("%Y/%m/%d %H:%M", "%Y/%m/%d %H:%M:%S", "%Y/%m/%d", "%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%d.%m.%Y",
                 "%Y-%m", "%Y")  # fmt: skip

_ISO = re.compile(
    r"(\d{4}-?\d{2}-?\d{2}(?:[T ]\d{2}(?::?\d{2}(?::?\d{2}(?:[.,]\d+)?)?)?)?) ?([Zz]|[+-]\d{2}(?::?\d{2})?)?"
)
_HOUR = 3_600_000  # milliseconds
_DAY = 24 * _HOUR


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
    """

    columns: tuple[str, ...]
    values: np.ndarray
    dates: np.ndarray | None
    lines: np.ndarray
    irregular_steps: int = 0
    path: str = field(default="", compare=False)
    offsets: np.ndarray | None = None
    zoned: bool = False

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

    def future(self, count: int) -> "SeriesTable":
        """The next `count` steps, without values; offsets stay those of the last step.

        Raises:
            ValueError: There are fewer than two dates.
        """
        return self._steps(count, ahead=True)

    def past(self, count: int) -> "SeriesTable":
        """The `count` steps before the first, without values; offsets stay those of the first step."""
        return self._steps(count, ahead=False)

    def _steps(self, count: int, ahead: bool) -> "SeriesTable":
        if self.dates is None or len(self.dates) < 2:
            raise ValueError(f"{self.path}: a series of fewer than two dates has no frequency")
        clock = _clock_dates(self.dates, self.offsets)
        dates = future_dates(clock, count) if ahead else past_dates(clock, count)
        offsets = None
        if self.offsets is not None:
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
        return [text + _offset_text(int(minutes)) for text, minutes in zip(texts, self.offsets, strict=True)]

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
    decimal: str = ".",
    thousands: str | None = None,
    encoding: str | None = None,
    optional_date: bool = False,
) -> SeriesTable:
    """Read a table: a header, then a row for each step, in the order of time.

    Args:
        path: A CSV file, gzip-compressed or not, or a Parquet file.
        columns: Channels to read; by default all but the date. Other columns may hold anything. A column without a name
            that counts the rows is left out.
        date_column: Name of the column of dates; None if there is none. If there is no column `date`, the default takes
            the one that is named as in `DATE_NAMES`, or has no name and holds dates.
        date_format: As in `datetime.strptime`; by default ISO 8601 and a few unambiguous formats are tried on the first
            row. Offsets from UTC are kept, and so is an hour that the clock repeats in autumn.
        delimiter: Between cells; a first line such as `sep=;` names another one.
        missing_values: Cells that stand for missing values beside `MISSING`, such as "-9999".
        irregular: What to do where the distance of dates is not the usual one: "fill" adds steps without values where
            rows are left out (and refuses dates between the steps); "error" refuses; "ignore" takes rows as they stand
            for consecutive steps, even repeated or unsorted ones.
        decimal: "." or ",".
        thousands: Character between groups of three digits; None for none.
        encoding: Of the text; by default UTF-8, or UTF-16 with a byte order mark.
        optional_date: Read a file without dates if it has no column for the default `date_column`.

    Raises:
        ValueError: The file is not like that; the message names the line and the column.
        FileNotFoundError: There is no such file.
    """
    reading = Reading(
        date_column, date_format, delimiter, tuple(missing_values), irregular, decimal, thousands, encoding
    )
    name = str(path)
    if _is_parquet(path):
        source: _Source = _Parquet(name)
    else:
        source = _Text(name, reading)
    date_column, unnamed = _date_column(source, reading)
    if optional_date and date_column == "date" and "date" not in source.header:
        date_column = None
    wanted = _wanted(name, source.header, columns, date_column, unnamed, source.delimiter)
    blank = {text.strip().lower() for text in (*MISSING, *reading.missing_values)}
    values = source.numbers(wanted, blank, reading)
    lines = source.lines
    if not len(lines):
        raise ValueError(f"{path}: no rows below the header")
    table = SeriesTable(tuple(wanted), values, None, lines, path=name)
    if date_column is None:
        return table
    dates, offsets = source.dates(date_column, date_format)
    _refuse_long(name, source, dates, date_column)
    zoned = offsets is not None
    if offsets is None:
        dates, offsets = _repeated_hours(dates)
    table = replace(table, dates=dates, offsets=offsets, zoned=zoned)
    return _on_grid(table, date_column or "", irregular)


def read_header(path: str | Path, delimiter: str = ",", encoding: str | None = None) -> list[str]:
    """Names of the columns of a table, see `read_table`."""
    if _is_parquet(path):
        return _Parquet(str(path)).header
    return _Text(str(path), Reading(delimiter=delimiter, encoding=encoding)).header


def open_text(path: str | Path, encoding: str | None = None) -> IO[str]:
    """Open a text file, gzip-compressed or not, in UTF-8 or the encoding of its byte order mark.

    Raises:
        ValueError: `encoding` is unknown.
    """
    with Path(path).open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    with gzip.open(path) if packed else Path(path).open("rb") as binary:
        start = binary.read(2)
    found = encoding or ("utf-16" if start in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    try:
        if packed:
            return cast("IO[str]", gzip.open(path, "rt", encoding=found, newline=""))
        return Path(path).open(encoding=found, newline="")
    except LookupError as error:
        raise ValueError(f"encoding={encoding!r} is unknown; 'utf-8', 'utf-16' and 'latin-1' are the usual") from error


def _is_parquet(path: str | Path) -> bool:
    with Path(path).open("rb") as file:
        return file.read(4) == b"PAR1"


class _Source:
    """A file's columns by name."""

    path: str
    header: list[str]
    lines: np.ndarray
    delimiter = ","

    def texts(self, column: str) -> list[str]:
        """The cells of a column."""
        raise NotImplementedError

    def numbers(self, columns: list[str], blank: set[str], reading: Reading) -> np.ndarray:
        """Cells of columns as numbers, float64 (rows, columns)."""
        raise NotImplementedError

    def dates(self, column: str, date_format: str | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Dates and their offsets from UTC, see `_parse_dates`."""
        return _parse_dates(self.path, column, self.texts(column), self.lines, date_format)


class _Text(_Source):
    def __init__(self, path: str, reading: Reading) -> None:
        self.path, self.reading = path, reading
        self.delimiter = reading.delimiter
        self.skipped = 0
        with self._reading() as file:
            first = file.readline()
            if match := re.fullmatch(r"sep=(.)\s*", first):
                self.delimiter, self.skipped = match[1], 1
            else:
                file.seek(0)
            reader = csv.reader(file, delimiter=self.delimiter)
            self.header = [name.strip() for name in next(reader, [])]
            self.head_lines = reader.line_num
        if len(self.header) == 1 and any(other in self.header[0] for other in ";\t,|"):
            raise ValueError(
                f"{path}, line 1: one column {self.header[0]!r} with delimiter={self.delimiter!r}; is it another one?"
            )
        _refuse_twins(path, self.header)
        self.lines = self._line_numbers()

    def _reading(self) -> "named_text":
        return named_text(self.path, self.reading.encoding)

    def _line_numbers(self) -> np.ndarray:
        """Lines of the rows, after a check that all rows are as wide as the header."""
        lines = array("q")
        count, width = len(self.header) - 1, len(self.header)
        quoted = False
        with self._reading() as file:
            for line, text in enumerate(file, start=1):
                if '"' in text or "\r" in text.rstrip("\r\n"):
                    quoted = True
                    break
                if line > self.skipped + self.head_lines and text.strip("\r\n"):
                    if text.count(self.delimiter) != count:
                        self._wrong_width(line, text.count(self.delimiter) + 1)
                    lines.append(line)
        if quoted:
            lines = array("q")
            with self._reading() as file:
                for _ in range(self.skipped):
                    file.readline()
                reader = csv.reader(file, delimiter=self.delimiter)
                next(reader, None)
                for cells in reader:
                    if cells and len(cells) != width:
                        self._wrong_width(reader.line_num + self.skipped, len(cells))
                    if cells:
                        lines.append(reader.line_num + self.skipped)
        return np.array(lines, dtype=np.int64)

    def _wrong_width(self, line: int, found: int) -> None:
        raise ValueError(f"{self.path}, line {line}: {found} cells, but the header has {len(self.header)}")

    def _frame(self, columns: list[str], **options: Any) -> Any:
        """Columns as pandas reads them."""
        import pandas as pd  # slow to import

        places = [self.header.index(name) for name in columns]
        with self._reading() as file:
            for _ in range(self.skipped):
                file.readline()
            return pd.read_csv(
                file, sep=self.delimiter, header=None, names=range(len(self.header)), skiprows=self.head_lines,
                usecols=places, index_col=False, keep_default_na=False, low_memory=False, **options,
            )[places]  # fmt: skip

    def texts(self, column: str) -> list[str]:
        return cast("list[str]", self._frame([column], dtype=object).iloc[:, 0].tolist()) if len(self.lines) else []

    def numbers(self, columns: list[str], blank: set[str], reading: Reading) -> np.ndarray:
        values = np.full((len(self.lines), len(columns)), np.nan)
        if not len(self.lines):
            return values
        slow = list(range(len(columns)))
        if reading.thousands is None:
            forms = sorted({form for text in blank for form in (text, text.upper(), text.capitalize())} | {"NaN"})
            frame = self._frame(columns, na_values=forms, decimal=reading.decimal, **_exact())
            slow = []
            for i in range(len(columns)):
                cells = frame.iloc[:, i]
                if cells.dtype.kind not in "iuf" or np.isinf(cells.to_numpy(np.float64)).any():
                    slow.append(i)
                else:
                    values[:, i] = cells.to_numpy(np.float64)
        for i in slow:
            texts = self.texts(columns[i])
            values[:, i] = [
                parse_cell(self.path, line, columns[i], text, blank, reading.decimal, reading.thousands)
                for line, text in zip(self.lines.tolist(), texts, strict=True)
            ]
        return values


def _exact() -> dict[str, str]:
    """The option by which pandas reads decimal numbers as Python does; from 3.1 on it is the only way."""
    import pandas as pd  # slow to import

    return {} if tuple(map(int, pd.__version__.split(".")[:2])) >= (3, 1) else {"float_precision": "round_trip"}


class named_text:
    """A text file whose troubles are told with its name."""

    def __init__(self, path: str, encoding: str | None = None) -> None:
        self.path = path
        self.file = _guarded(path, lambda: open_text(path, encoding))

    def __enter__(self) -> Any:
        return self.file

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.file.close()
        _tell(self.path, error)


def _guarded(path: str, work: Any) -> Any:
    try:
        return work()
    except (UnicodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        _tell(path, error)
        raise


def _tell(path: str, error: BaseException | None) -> None:
    """Raise a ValueError with the file's name for an error of decoding, unpacking or parsing."""
    if isinstance(error, UnicodeError):
        raise ValueError(
            f"{path}: not text in this encoding ({error}); encoding names another, for example 'utf-16' or 'latin-1'"
        ) from error
    if isinstance(error, EOFError | gzip.BadGzipFile | zlib.error):
        raise ValueError(f"{path}: a damaged gzip file ({error})") from error
    if isinstance(error, csv.Error):
        raise ValueError(f"{path}: not a table ({error})") from error


class _Parquet(_Source):
    def __init__(self, path: str) -> None:
        import pandas as pd  # slow to import

        self.path = path
        try:
            frame = pd.read_parquet(path)
        except ImportError as error:
            raise ValueError(f"{path}: Parquet needs pyarrow: pip install 'blockzoo[tables]'") from error
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: not a Parquet file that can be read ({error})") from error
        if not isinstance(frame.index, pd.RangeIndex):
            frame = frame.reset_index(names=frame.index.name or "date")
        self.header = [str(name) for name in frame.columns]
        frame.columns = self.header
        _refuse_twins(path, self.header)
        self.frame = frame
        self.lines = np.arange(1, len(frame) + 1)

    def texts(self, column: str) -> list[str]:
        return ["" if cell is None or cell != cell else str(cell) for cell in self.frame[column].tolist()]

    def numbers(self, columns: list[str], blank: set[str], reading: Reading) -> np.ndarray:
        values = np.full((len(self.frame), len(columns)), np.nan)
        marks = [float(text) for text in reading.missing_values if re.fullmatch(r"[+-]?\d+(\.\d*)?", text)]
        for i, name in enumerate(columns):
            cells = self.frame[name]
            if cells.dtype.kind in "iuf":
                numbers = cells.to_numpy(np.float64, na_value=np.nan)
                if np.isinf(numbers).any():
                    row = int(np.isinf(numbers).argmax())
                    raise ValueError(f"{self.path}, row {row + 1}, column {name!r}: {numbers[row]} is not finite")
                values[:, i] = np.where(np.isin(numbers, marks), np.nan, numbers)
            else:
                values[:, i] = [parse_cell(self.path, line, name, text, blank, reading.decimal, reading.thousands)
                                for line, text in enumerate(self.texts(name), start=1)]  # fmt: skip
        return values

    def dates(self, column: str, date_format: str | None) -> tuple[np.ndarray, np.ndarray | None]:
        cells = self.frame[column]
        if cells.dtype.kind != "M":
            return super().dates(column, date_format)
        if cells.isna().any():
            raise ValueError(f"{self.path}, row {int(cells.isna().argmax()) + 1}, column {column!r}: no date")
        if cells.dt.tz is None:
            return cells.to_numpy("datetime64[ms]"), None
        local = cells.dt.tz_localize(None).to_numpy("datetime64[ms]")
        dates = cells.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy("datetime64[ms]")
        return dates, (local - dates).astype("timedelta64[m]").astype(np.int64)


def _refuse_twins(path: str, header: list[str]) -> None:
    for name in header:
        if header.count(name) > 1:
            raise ValueError(f"{path}, line 1: {header.count(name)} columns are named {name!r}")


def _date_column(source: _Source, reading: Reading) -> tuple[str | None, str | None]:
    """The column of dates, and a column without a name that is no channel."""
    unnamed = next((name for name in source.header if name == "" or re.fullmatch(r"Unnamed: \d+", name)), None)
    column = reading.date_column
    if column == "date" and "date" not in source.header:
        known = [name for name in source.header if name.lower() in DATE_NAMES]
        if len(known) == 1:
            column = known[0]
    if unnamed is None or unnamed == column:
        return column, None
    texts = [text.strip() for text in source.texts(unnamed)]
    if all(re.fullmatch(r"\d{1,18}", text) for text in texts):
        counts = np.array(texts, dtype=np.int64)
        if (np.diff(counts) == 1).all():
            return column, unnamed
    if column == "date" and column not in source.header and texts and _ISO.fullmatch(texts[0]):
        return unnamed, unnamed
    raise ValueError(
        f"{source.path}, line 1: column {source.header.index(unnamed) + 1} has no name, and neither counts the rows "
        "nor holds the dates; give it a name in the header"
    )


def _wanted(
    path: str, header: list[str], columns: Sequence[str] | None, date_column: str | None, unnamed: str | None,
    delimiter: str,
) -> list[str]:  # fmt: skip
    wanted = [name for name in header if name not in (date_column, unnamed)] if columns is None else list(columns)
    for name in [*wanted, *([date_column] if date_column is not None else [])]:
        if name not in header:
            hint = "; date_column=null reads a file without dates" if name == date_column else ""
            raise ValueError(f"{path}, line 1: no column {name!r}; there are {', '.join(map(repr, header))}{hint}")
    if not wanted:
        raise ValueError(f"{path}, line 1: no column besides {date_column!r}")
    return wanted


def _refuse_long(path: str, source: _Source, dates: np.ndarray, date_column: str) -> None:
    """Refuse a table in which several series stand one below the other."""
    distinct = len(np.unique(dates))
    if len(dates) < 4 or distinct > len(dates) / 2:
        return
    keys = []
    for name in source.header:
        if name != date_column:
            found = set(source.texts(name))
            if 1 < len(found) <= len(dates) / 2 and not all(re.fullmatch(r"[-+.,\d eE]*", text) for text in found):
                keys.append(f"{name!r} ({', '.join(sorted(found)[:3])}{', ..' * (len(found) > 3)})")
    by = f", one for each {' or '.join(keys)}" if keys else ""
    raise ValueError(
        f"{path}: {len(dates)} rows but {distinct} dates in column {date_column!r}: several series stand one below the "
        f"other{by} (long format); give each a file, or a column of its own (pandas: DataFrame.pivot)"
    )


def parse_cell(
    path: str, line: int, column: str, text: str, blank: set[str], decimal: str = ".", thousands: str | None = None
) -> float:
    """The number in a cell, NaN for one of `blank`.

    Raises:
        ValueError: It is neither, or not finite; the message names line and column.
    """
    stripped = text.strip()
    if stripped.lower() in blank:
        return math.nan
    plain = stripped
    if thousands is not None:
        group = re.escape(thousands)
        if re.fullmatch(rf"[+-]?\d{{1,3}}({group}\d{{3}})+({re.escape(decimal)}\d*)?", plain):
            plain = plain.replace(thousands, "")
    if decimal != ".":
        plain = "_" if "." in plain else plain.replace(decimal, ".")
    try:
        value = math.nan if "_" in plain else float(plain)  # Python's 1_000 is no number in a table
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        hint = ""
        if re.fullmatch(r"[+-]?\d+(\.\d{3})*,\d+", stripped) and decimal == ".":
            hint = "; decimal=',' or thousands=',' tells what the comma means"
        raise ValueError(
            f"{path}, line {line}, column {column!r}: {text!r} is not a finite number (missing values are empty or one "
            f"of {', '.join(sorted(blank - {''}))}; missing_values adds others, columns chooses what is read){hint}"
        )
    return value


def _parse_dates(
    path: str, column: str, texts: list[str], lines: np.ndarray, date_format: str | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Dates, datetime64[ms] (rows,), in UTC if they have offsets, and those in minutes."""
    import pandas as pd  # slow to import

    texts = [text.strip() for text in texts]
    first = texts[0]
    iso = _ISO.fullmatch(first)
    formats = [date_format] if date_format is not None else [] if iso else list(_DATE_FORMATS)
    chosen = next((known for known in formats if _one_date(first, known) is not None), None)
    if iso and date_format is None:
        if iso[2] is None and len(set(map(len, texts))) == 1:
            found = pd.to_datetime(pd.Series(texts, dtype=object), format="ISO8601", errors="coerce", utc=True)
            if not found.isna().any() and _ISO.fullmatch(texts[-1]) and not any("+" in text for text in texts):
                return found.dt.tz_localize(None).to_numpy("datetime64[ms]"), None
        pairs = [_iso_date(text, zoned=iso[2] is not None) for text in texts]
    elif chosen is not None:
        if "%z" not in chosen.lower():
            found = pd.to_datetime(pd.Series(texts, dtype=object), format=chosen, errors="coerce")
            if not found.isna().any():
                _refuse_ids(path, column, texts, lines, chosen, date_format)
                return found.to_numpy("datetime64[ms]"), None
        pairs = [_one_date(text, chosen) for text in texts]
    else:
        pairs = [None]
    for text, line, pair in zip(texts, lines.tolist(), pairs, strict=False):
        if pair is None:
            known = chosen is not None or (iso is not None and date_format is None)
            like = f"not like {date_format!r}" if date_format else "not a date in a known format"
            like = f"not like the first one, {first!r}" if known and not date_format else like
            hint = "" if date_format else "; date_format gives one, for example '%d/%m/%Y %H:%M'"
            raise ValueError(f"{path}, line {line}, column {column!r}: {text!r} is {like}{hint}")
    whole = cast("list[tuple[np.datetime64, int | None]]", pairs)
    dates = np.array([date for date, _ in whole], dtype="datetime64[ms]")
    if whole[0][1] is None:
        return dates, None
    offsets = np.array([minutes for _, minutes in whole], dtype=np.int64)
    return dates - offsets.astype("timedelta64[m]"), offsets


def _refuse_ids(
    path: str, column: str, texts: list[str], lines: np.ndarray, chosen: str, date_format: str | None
) -> None:
    """Refuse whole numbers that are hardly years."""
    if chosen != "%Y" or date_format is not None:
        return
    for text, line in zip(texts, lines.tolist(), strict=True):
        if not 1500 <= int(text) <= 2200 or (column.lower() not in DATE_NAMES and "year" not in column.lower()):
            raise ValueError(
                f"{path}, line {line}, column {column!r}: {text!r} may be a number of a row and not a year; "
                "date_format='%Y' reads it as a year, date_column=null reads a file without dates"
            )


def _iso_date(text: str, zoned: bool) -> tuple[np.datetime64, int | None] | None:
    match = _ISO.fullmatch(text)
    if match is None or (match[2] is not None) != zoned:
        return None
    digits = re.sub(r"\D", "", re.split(r"[.,]", match[1])[0])
    fraction = re.split(r"[.,]", match[1])[1:] or ["0"]
    day, clock = digits[:8], digits[8:].ljust(6, "0")
    try:
        date = np.datetime64(f"{day[:4]}-{day[4:6]}-{day[6:]}T{clock[:2]}:{clock[2:4]}:{clock[4:]}", "ms")
    except ValueError:
        return None
    date = date + np.timedelta64(int(fraction[0].ljust(3, "0")[:3]), "ms")
    if not zoned:
        return date, None
    offset = re.sub(r"\D", "", match[2]).ljust(4, "0")
    minutes = int(offset[:2]) * 60 + int(offset[2:])
    return date, -minutes if match[2].startswith("-") else minutes


def _one_date(text: str, date_format: str) -> tuple[np.datetime64, int | None] | None:
    from datetime import datetime

    try:
        date = datetime.strptime(text, date_format)
    except ValueError:
        return None
    offset = date.utcoffset()
    minutes = None if offset is None else round(offset.total_seconds() / 60)
    return np.datetime64(date.replace(tzinfo=None), "ms"), minutes


def _offset_text(minutes: int) -> str:
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"


def _clock_dates(dates: np.ndarray, offsets: np.ndarray | None) -> np.ndarray:
    """The clock whose steps are equal: the local one for steps of a day or more, else `dates`."""
    if offsets is None or len(dates) < 2 or np.median(np.diff(dates).astype(np.int64)) < 23 * _HOUR:
        return dates
    return cast(np.ndarray, dates + offsets.astype("timedelta64[m]"))


def _repeated_hours(dates: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Dates on a clock that never goes back, and the minutes from it to the file's, which repeats an hour in autumn."""
    steps = np.diff(dates).astype(np.int64)
    forward = steps[steps > 0]
    if not len(forward) or (steps > 0).all():
        return dates, None
    found, counts = np.unique(forward, return_counts=True)
    usual = int(found[counts.argmax()])
    months = dates[1:].astype("datetime64[M]").astype(np.int64) % 12 + 1
    hours = (dates[1:] - dates[1:].astype("datetime64[D]")).astype("timedelta64[h]").astype(np.int64)
    back = (steps == usual - _HOUR) & np.isin(months, (3, 4, 9, 10, 11)) & (hours <= 4)
    places = np.flatnonzero(steps <= 0)
    if usual > _HOUR or _HOUR % usual or not back[places].all():
        return dates, None
    if len(places) > 1 and (np.diff(dates[places]).astype(np.int64) < 100 * _DAY).any():
        return dates, None
    offset, minutes = 0, np.zeros(len(dates), dtype=np.int64)
    for i, step in enumerate(steps.tolist()):
        if back[i]:
            offset -= 60
        elif offset < 0 and step == usual + _HOUR and hours[i] <= 4:
            offset += 60
        minutes[i + 1] = offset
    return dates - minutes.astype("timedelta64[m]"), minutes


def _on_grid(table: SeriesTable, column: str, irregular: Irregular) -> SeriesTable:
    """Check that dates go forward in equal steps, or make them."""
    lines, path, offsets = table.lines, table.path, table.offsets
    assert table.dates is not None
    if len(table.dates) < 2:
        return table
    dates = _clock_dates(table.dates, offsets)
    steps, size = _steps(dates)
    odd = np.diff(steps) != size
    if irregular == "ignore":
        return replace(table, irregular_steps=int(odd.sum()))
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
    whole = _continued(dates, np.arange(count))
    if offsets is not None:
        # A step that the file leaves out has the offset of the step before it.
        last = np.maximum.accumulate(np.where(filled_lines > 0, np.arange(count), 0))
        spread = np.zeros(count, dtype=np.int64)
        spread[places] = offsets
        offsets = spread[last]
        whole = whole if dates is table.dates else whole - offsets.astype("timedelta64[m]")
    return replace(table, values=values, dates=whole, lines=filled_lines, offsets=offsets)


def _steps(dates: np.ndarray) -> tuple[np.ndarray, int]:
    """Dates as whole numbers, and their usual distance.

    They count months where each date is at the same place of its month, working days where no date is on a weekend and
    Mondays follow Fridays, else milliseconds.
    """
    numbers = _months(dates)
    if numbers is None and _business(dates):
        numbers = np.busday_count("1970-01-01", dates.astype("datetime64[D]"))
    if numbers is None:
        numbers = dates.astype(np.int64)
    found, counts = np.unique(np.diff(numbers), return_counts=True)
    positive = found > 0
    return numbers, int(found[positive][counts[positive].argmax()]) if positive.any() else 1


def _business(dates: np.ndarray) -> bool:
    """Whether dates are working days, one by one, with at least one weekend between neighbours."""
    days = dates.astype("datetime64[D]")
    within = dates - days.astype("datetime64[ms]")
    if len(days) < 5 or not np.is_busday(days).all() or not (within == within[0]).all():
        return False
    steps = np.diff(days).astype(np.int64)
    weekend = (steps == 3) & ((days[:-1].astype(np.int64) + 3) % 7 == 4)  # a Friday, then its Monday
    return bool((steps > 0).all() and (steps == 1).sum() > len(steps) / 2 and weekend.any())


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
    if by_month is None and _business(dates):
        days = np.busday_offset("1970-01-01", numbers[0] + positions * size, roll="forward").astype("datetime64[ms]")
        return days + (dates[0] - dates[0].astype("datetime64[D]"))
    if by_month is None:
        return (numbers[0] + positions * size).astype("datetime64[ms]")
    months = (by_month[0] + positions * size).astype("datetime64[M]")
    first = dates.astype("datetime64[M]")
    within = dates - first.astype("datetime64[ms]")
    if (within == within[0]).all():
        return months.astype("datetime64[ms]") + within[0]
    return (months + 1).astype("datetime64[ms]") - ((first[0] + 1).astype("datetime64[ms]") - dates[0])


def future_dates(dates: np.ndarray, count: int) -> np.ndarray:
    """The next dates after some (at least two), datetime64[ms] (count,); months and working days stay such."""
    numbers, size = _steps(dates)
    last = round((int(numbers[-1]) - int(numbers[0])) / size)
    return _continued(dates, last + 1 + np.arange(count))


def past_dates(dates: np.ndarray, count: int) -> np.ndarray:
    """The dates before some (at least two), datetime64[ms] (count,), in order."""
    return _continued(dates, np.arange(-count, 0))
