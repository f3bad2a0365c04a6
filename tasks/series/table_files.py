"""Files of tables: their columns as texts, numbers and dates, with the line that each row comes from.

A million rows are read in the time that pandas takes, and in little more memory than its columns.
"""

import abc
import bz2
import csv
import functools
import gzip
import io
import itertools
import lzma
import re
import warnings
import zipfile
import zlib
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from blockzoo.tasks.core.extras import needs
from blockzoo.tasks.series.cells import parse_cell
from blockzoo.tasks.series.dates import parse_dates

__all__ = ["Source", "named_text", "open_source", "open_text"]


def _open_zip(path: str | Path) -> IO[bytes]:
    """The only file of a zip archive."""
    archive = zipfile.ZipFile(path)
    names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX")]
    if len(names) != 1:
        raise ValueError(f"{path}: {len(names)} files are packed in it ({', '.join(names[:5])}); a table is one")
    try:
        return archive.open(names[0])
    except (RuntimeError, NotImplementedError) as error:  # a password, or a method that Python cannot unpack
        raise ValueError(f"{path}: {names[0]} cannot be unpacked ({error})") from error


def _open_zstd(path: str | Path) -> IO[bytes]:
    pyarrow = needs("pyarrow", "tables", f"{path}, packed by zstd,")
    return cast("IO[bytes]", io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd")))


_PACKED: tuple[tuple[bytes, Callable[[str | Path], Any]], ...] = (
    (b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\x00", lzma.open), (b"PK", _open_zip),
    (b"\x28\xb5\x2f\xfd", _open_zstd),
)  # fmt: skip
_CHUNK = 1 << 24  # bytes in which lines are counted
_LINE = 1 << 26  # characters of a line, at most
_BOMB, _SMALL = 200, 1 << 30
"""A file may unpack to so many times its size, and to so many bytes whatever its size."""


class _Unpacked(io.RawIOBase):
    """The bytes of a packed file, refused once they are far more than a table of its size packs to."""

    def __init__(self, path: str | Path, file: IO[bytes]) -> None:
        self.path, self.file, self.stored = path, cast(io.BufferedIOBase, file), Path(path).stat().st_size
        self.left = max(_SMALL, _BOMB * self.stored)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self.file.readinto(buffer)
        self.left -= count
        if self.left < 0:
            raise ValueError(
                f"{self.path} unpacks from {self.stored:,} to more than {max(_SMALL, _BOMB * self.stored):,} bytes; if "
                "that is meant, unpack it first"
            )
        return count

    def close(self) -> None:
        self.file.close()
        super().close()


def open_source(
    path: Any, delimiter: str = ",", decimal: str = ".", thousands: str | None = None,
    encoding: str | None = None,
) -> "Source":  # fmt: skip
    """Open a table and read its header; see `blockzoo.tasks.series.table.read_table` for the arguments.

    Raises:
        ValueError: It is no table.
        TypeError: `path` is neither the name of a file nor a table.
        FileNotFoundError: There is no such file.
    """
    if not isinstance(path, str | Path):
        return _Frame(_as_frame(path), "DataFrame", decimal, thousands)
    kind = _kind_of(str(path))
    if kind is not None:
        first = 2 if kind == "Excel" else 1  # rows of a sheet are counted from its header
        return _Frame(_read_frame(kind, str(path)), str(path), decimal, thousands, first)
    return _Text(str(path), delimiter, decimal, thousands, encoding)


def _as_frame(table: Any) -> Any:
    """A pandas DataFrame of a table that one may have in memory: of pandas, polars or pyarrow."""
    import pandas as pd  # slow to import

    found = table.to_frame() if isinstance(table, pd.Series) else table
    if not isinstance(found, pd.DataFrame) and hasattr(found, "to_pandas"):
        found = found.to_pandas()
    if not isinstance(found, pd.DataFrame):
        raise TypeError(f"a table is the name of a file or a DataFrame, not {type(table).__name__}")
    return found


class Source(abc.ABC):
    """A table's columns by name.

    Attributes:
        path: The file, for messages.
        header: Names of the columns.
        lines: Line that each row comes from, int64 (rows,).
        delimiter: Between cells, of a text.
    """

    path: str
    header: list[str]
    lines: np.ndarray
    delimiter = ","
    decimal = "."
    thousands: str | None = None

    @abc.abstractmethod
    def load(self, numbers: list[str], texts: list[str], blank: set[str]) -> None:
        """Read the columns that will be asked for at once, where that is faster.

        Args:
            numbers: Names of columns of numbers.
            texts: Names of columns of texts and dates.
            blank: Cells that stand for missing values, in lower case.
        """

    @abc.abstractmethod
    def cells(self, column: str) -> Any:
        """A column as a pandas Series of texts."""

    @abc.abstractmethod
    def numbers(self, columns: list[str], blank: set[str]) -> np.ndarray:
        """Columns as numbers, float64 (rows, columns), NaN where a cell is one of `blank`.

        Raises:
            ValueError: A cell is neither a finite number nor missing; the message names its line and column.
        """

    def dates(self, column: str, date_format: str | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Dates and their offsets from UTC, see `parse_dates`."""
        return parse_dates(self.path, column, self.cells(column), self.lines, date_format)

    def _parsed(self, column: str, texts: list[str], blank: set[str]) -> list[float]:
        """Numbers of texts, each by itself, so that the first wrong one is named."""
        return [
            parse_cell(self.path, line, column, text, blank, self.decimal, self.thousands)
            for line, text in zip(self.lines.tolist(), texts, strict=True)
        ]


class _Text(Source):
    def __init__(
        self, path: str, delimiter: str, decimal: str, thousands: str | None, encoding: str | None
    ) -> None:  # fmt: skip
        self.path, self.delimiter, self.decimal, self.thousands = path, delimiter, decimal, thousands
        self.encoding, self.skipped = encoding, 0
        self._frame: Any = None
        with self._reading() as file:
            first = self._bounded(file.readline(_LINE))
            rest: Any = itertools.chain([first], file)
            if match := re.fullmatch(r"sep=(.)\s*", first):
                self.delimiter, self.skipped, rest = match[1], 1, file
            reader = csv.reader(rest, delimiter=self.delimiter)
            head = next((cells for cells in reader if any(cells)), [])
            self.header = [name.strip() for name in head]
            self.head_lines = reader.line_num + self.skipped
            blank = reader.line_num - 1 - sum(name.count("\n") for name in head)
            self.head_rows = self.skipped + 1 + max(blank, 0)  # a name may hold line breaks
        if not self.header:
            raise ValueError(f"{path}: empty; a table begins with the names of its columns")
        if len(self.header) == 1 and any(other in self.header[0] for other in ";\t,|"):
            raise ValueError(
                f"{path}, line 1: one column {self.header[0]!r} with delimiter={self.delimiter!r}; is it another one?"
            )
        _refuse_twins(path, self.header)

    @functools.cached_property
    def lines(self) -> np.ndarray:  # type: ignore[override]  # a pass over the file, which its header does not need
        """Lines of the rows, after a check that all rows are as wide as the header."""
        return self._line_numbers()

    def _reading(self) -> "named_text":
        return named_text(self.path, self.encoding)

    def _line_numbers(self) -> np.ndarray:
        if not self.delimiter.isascii():
            return self._quoted_line_numbers()
        found, before = [], 0
        for chunk in self._chunks():
            if b'"' in chunk or chunk.count(b"\r") != chunk.count(b"\r\n"):
                return self._quoted_line_numbers()  # a line break may stand within a cell
            data = np.frombuffer(chunk, dtype=np.uint8)
            ends = np.flatnonzero(data == 10)
            starts = np.r_[0, ends[:-1] + 1]
            counts = np.diff(np.searchsorted(np.flatnonzero(data == ord(self.delimiter)), ends), prepend=0)
            width = ends - starts
            full = (width > 1) | ((width == 1) & (data[starts] != 13))
            line = before + 1 + np.arange(len(ends))
            full &= line > self.head_lines
            for i in np.flatnonzero(full & (counts != len(self.header) - 1))[:1]:
                self._wrong_width(int(line[i]), int(counts[i]) + 1)
            found.append(line[full])
            before += len(ends)
        return np.concatenate(found).astype(np.int64) if found else np.zeros(0, dtype=np.int64)

    def _bounded(self, line: Any) -> Any:
        """A line, or a part of one, unless it is too long to be one of a table."""
        if len(line) >= _LINE:
            raise ValueError(f"{self.path}: a line of {_LINE:,} characters or more; is it a table?")
        return line

    def _chunks(self) -> Iterator[bytes]:
        """The file in UTF-8, in whole lines."""
        rest = b""
        with named_text(self.path, self.encoding, binary=True) as file:
            while chunk := file.read(_CHUNK):
                whole, newline, left = (rest + _bytes(chunk)).rpartition(b"\n")
                rest = self._bounded(left)
                if newline:
                    yield whole + newline
        if rest:
            yield rest + b"\n"

    def _quoted_line_numbers(self) -> np.ndarray:
        lines = array("q")
        with self._reading() as file:
            for _ in range(self.skipped):
                file.readline()
            reader = csv.reader(file, delimiter=self.delimiter)
            for cells in reader:
                line = reader.line_num + self.skipped
                if line <= self.head_lines or not cells:
                    continue
                if len(cells) != len(self.header):
                    self._wrong_width(line, len(cells))
                lines.append(line)
        return np.array(lines, dtype=np.int64)

    def _wrong_width(self, line: int, found: int) -> None:
        raise ValueError(f"{self.path}, line {line}: {found} cells, but the header has {len(self.header)}")

    def _read(self, columns: list[str], **options: Any) -> Any:
        """Columns as pandas reads them, by their places in the header."""
        import pandas as pd  # slow to import

        places = [self.header.index(name) for name in columns]
        with named_text(self.path, self.encoding, binary=True) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", pd.errors.DtypeWarning)  # such columns are read once more, as texts
            frame = pd.read_csv(
                file, sep=self.delimiter, header=None, names=range(len(self.header)), usecols=places, index_col=False,
                skiprows=self.head_rows, keep_default_na=False, decimal=self.decimal, **_exact(),
                **options,
            )  # fmt: skip
        if len(frame) != len(self.lines):
            raise ValueError(f"{self.path}: {len(self.lines)} rows, of which {len(self.lines) - len(frame)} are blank")
        return frame

    def load(self, numbers: list[str], texts: list[str], blank: set[str]) -> None:
        if not len(self.lines):
            return
        forms = sorted({form for text in blank for form in (text, text.upper(), text.capitalize())} | {"NaN"})
        missing = {} if self.thousands is not None else {self.header.index(name): forms for name in numbers}
        as_text = texts if self.thousands is None else [*texts, *numbers]
        # From pandas 3 on, texts are faster found than told; a column of numbers is then read once more.
        kinds = {} if _pandas() >= (3,) else {self.header.index(name): object for name in as_text}
        self._frame = self._read(list(dict.fromkeys([*numbers, *texts])), na_values=missing, dtype=kinds)

    def _is_text(self, place: int) -> bool:
        """Whether all that pandas found in a column are texts."""
        kind = self._frame[place].dtype
        return bool(kind.kind == "O" if _pandas() < (3,) else kind == "str")

    def cells(self, column: str) -> Any:
        place = self.header.index(column)
        if self._frame is None or place not in self._frame or not self._is_text(place):
            return self._read([column], dtype=_text_type())[place]
        return self._frame[place]

    def numbers(self, columns: list[str], blank: set[str]) -> np.ndarray:
        values = np.full((len(self.lines), len(columns)), np.nan)
        for i, name in enumerate(columns if len(self.lines) else []):
            place = self.header.index(name)
            if self._frame is None or place not in self._frame:
                self.load([name], [], blank)
            cells = self._frame[place]
            if self.thousands is None and cells.dtype.kind in "iuf" and not np.isinf(cells.to_numpy(np.float64)).any():
                values[:, i] = cells.to_numpy(np.float64)
                continue
            texts = self.cells(name) if self.thousands is not None else self._read([name], dtype=_text_type())[place]
            values[:, i] = self._parsed(name, texts.tolist(), blank)
        return values


def _text_type() -> Any:
    """The type of pandas' columns of texts: packed if pyarrow is there."""
    from importlib.util import find_spec

    return "string[pyarrow]" if find_spec("pyarrow") else object


def _pandas() -> tuple[int, ...]:
    """Version of pandas, its first two numbers."""
    import pandas as pd  # slow to import

    return tuple(map(int, pd.__version__.split(".")[:2]))


def _exact() -> dict[str, Any]:
    """The option by which pandas reads decimal numbers as Python does; from 3.1 on it is the only way."""
    return {} if _pandas() >= (3, 1) else {"float_precision": "round_trip"}


def _bytes(chunk: str | bytes) -> bytes:
    return chunk if isinstance(chunk, bytes) else chunk.encode("utf-8")


def open_text(path: str | Path, encoding: str | None = None, binary: bool = False) -> IO[Any]:
    """Open a text, packed or not (gzip, bzip2, xz, zip, zstd), in UTF-8 or the encoding of its byte order mark.

    Args:
        path: The file.
        encoding: Of the text, instead of these.
        binary: Give the bytes of a text in UTF-8, which are read faster; texts in other encodings are decoded anyway.

    Raises:
        ValueError: `encoding` is unknown.
    """
    with Path(path).open("rb") as raw:
        magic = raw.read(6)
    packed = next((unpack for start, unpack in _PACKED if magic.startswith(start)), None)

    def unpacked() -> IO[bytes]:
        if packed is None:
            return Path(path).open("rb")
        return cast("IO[bytes]", io.BufferedReader(_Unpacked(path, packed(path)), 1 << 16))

    with unpacked() as file:
        start = file.read(2)
    found = encoding or ("utf-16" if start in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    if binary and found.lower().replace("_", "-") in ("utf-8", "utf8", "utf-8-sig"):
        return unpacked()
    try:
        if packed:
            return io.TextIOWrapper(cast(io.BufferedReader, unpacked()), encoding=found, newline="")
        return Path(path).open(encoding=found, newline="")
    except LookupError as error:
        raise ValueError(f"encoding={encoding!r} is unknown; 'utf-8', 'utf-16' and 'latin-1' are the usual") from error


class named_text:
    """A text file whose troubles are told with its name; see `open_text` for the arguments."""

    def __init__(self, path: str, encoding: str | None = None, binary: bool = False) -> None:
        self.path = path
        with _told(path):
            self.file = open_text(path, encoding, binary)

    def __enter__(self) -> Any:
        return self.file

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.file.close()
        _tell(self.path, error)


class _told:
    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        _tell(self.path, error)


def _tell(path: str, error: BaseException | None) -> None:
    """Raise a ValueError with the file's name for an error of decoding, unpacking or parsing."""
    if isinstance(error, UnicodeError):
        raise ValueError(
            f"{path}: not text in this encoding ({error}); encoding names another, for example 'utf-16' or 'latin-1'"
        ) from error
    packing = isinstance(error, OSError) and error.errno is None  # bz2 and pyarrow have no error of their own
    if packing or isinstance(error, EOFError | zlib.error | lzma.LZMAError | zipfile.BadZipFile):
        raise ValueError(f"{path}: a damaged compressed file ({error})") from error
    if isinstance(error, csv.Error):
        raise ValueError(f"{path}: not a table ({error})") from error


class _Frame(Source):
    """A pandas DataFrame; an index that does more than count is a column."""

    def __init__(self, frame: Any, path: str, decimal: str, thousands: str | None, first_line: int = 1) -> None:
        import pandas as pd  # slow to import

        self.path, self.decimal, self.thousands = path, decimal, thousands
        if isinstance(frame.columns, pd.MultiIndex):
            raise ValueError(f"{path}: columns have {frame.columns.nlevels} levels of names; a table has one")
        counts = frame.index.name is None and frame.index.nlevels == 1 and frame.index.dtype.kind in "iu"
        if not counts:
            frame = frame.reset_index(**({} if isinstance(frame.index, pd.MultiIndex) or frame.index.name else
                                         {"names": "date"}))  # fmt: skip
        self.header = [str(name).strip() for name in frame.columns]
        _refuse_twins(path, self.header)
        self.frame = frame.set_axis(self.header, axis=1)
        self.lines = np.arange(first_line, first_line + len(frame))

    def load(self, numbers: list[str], texts: list[str], blank: set[str]) -> None:
        """Do nothing: the columns are in memory."""

    def cells(self, column: str) -> Any:
        import pandas as pd  # slow to import

        found = self.frame[column]
        texts = ["" if gap else str(cell) for cell, gap in zip(found.tolist(), found.isna().tolist(), strict=True)]
        return pd.Series(texts, dtype=object)

    def numbers(self, columns: list[str], blank: set[str]) -> np.ndarray:
        values = np.full((len(self.frame), len(columns)), np.nan)
        marks = [float(text) for text in blank if re.fullmatch(r"[+-]?\d+(\.\d*)?", text)]
        for i, name in enumerate(columns):
            cells = self.frame[name]
            if cells.dtype.kind not in "iufb":
                values[:, i] = self._parsed(name, self.cells(name).tolist(), blank)
                continue
            numbers = cells.to_numpy(np.float64, na_value=np.nan)
            if np.isinf(numbers).any():
                row = int(np.isinf(numbers).argmax())
                raise ValueError(f"{self.path}, line {self.lines[row]}, column {name!r}: {numbers[row]} is not finite")
            values[:, i] = np.where(np.isin(numbers, marks), np.nan, numbers)
        return values

    def dates(self, column: str, date_format: str | None) -> tuple[np.ndarray, np.ndarray | None]:
        cells = self.frame[column]
        if str(cells.dtype).startswith("period"):
            cells = cells.dt.to_timestamp()
        if cells.dtype.kind != "M":
            return super().dates(column, date_format)
        if cells.isna().any():
            line = self.lines[int(cells.isna().to_numpy().argmax())]
            raise ValueError(f"{self.path}, line {line}, column {column!r}: no date")
        if cells.dt.tz is None:
            return cells.to_numpy("datetime64[ms]"), None
        local = cells.dt.tz_localize(None).to_numpy("datetime64[ms]")
        dates = cells.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy("datetime64[ms]")
        return dates, (local - dates).astype("timedelta64[m]").astype(np.int64)


def _read_parquet(path: str) -> Any:
    import pandas as pd  # slow to import

    return pd.read_parquet(path)


def _read_arrow(path: str) -> Any:
    import pyarrow as pa

    with pa.memory_map(path) as file:
        stream = file.read(6) != b"ARROW1"
        file.seek(0)
        return (pa.ipc.open_stream(file) if stream else pa.ipc.open_file(file)).read_all().to_pandas()


def _read_excel(path: str) -> Any:
    import pandas as pd  # slow to import

    return pd.read_excel(path)


_FRAMES: dict[str, tuple[Callable[[str], Any], str]] = {
    "Parquet": (_read_parquet, "pyarrow"), "Arrow": (_read_arrow, "pyarrow"), "Excel": (_read_excel, "openpyxl"),
}  # fmt: skip


def _kind_of(path: str) -> str | None:
    """The name of a file's format in `_FRAMES`, by its first bytes; None for texts."""
    with Path(path).open("rb") as file:
        start = file.read(8)
    if start.startswith(b"PAR1"):
        return "Parquet"
    if start.startswith(b"ARROW1") or (
        start.startswith(b"\xff\xff\xff\xff") and Path(path).suffix.startswith(".arrow")
    ):
        return "Arrow"
    if start.startswith(b"PK") and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            return "Excel" if "xl/workbook.xml" in file.namelist() else None
    if start == b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1":
        raise ValueError(f"{path}: an Excel file of before 2007; save it as .xlsx or CSV")
    return None


def _read_frame(kind: str, path: str) -> Any:
    read, needed = _FRAMES[kind]
    needs(needed, "tables", path)
    try:
        return read(path)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a {kind} file that can be read ({error})") from error


def _refuse_twins(path: str, header: list[str]) -> None:
    for name in header:
        if header.count(name) > 1:
            raise ValueError(f"{path}, line 1: {header.count(name)} columns are named {name!r}")
