"""Writing files completely or not at all, and unpacking compressed data up to a limit."""

import csv
import gzip
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

from blockzoo.checkpoints.whole_file import replacing
from blockzoo.tasks.core.extras import needs

__all__ = [
    "check_output",
    "read_bounded",
    "replacing",
    "unzipped",
    "write_csv",
    "write_figure",
    "write_table",
    "write_text",
]


def check_output(path: str | Path, inputs: Iterable[str | Path] = (), folder: bool = False) -> None:
    """Refuse an output path that cannot be written, before any work is done.

    Args:
        path: The file or folder to write.
        inputs: Files that are read, none of which may be overwritten.
        folder: Whether the output is a folder; missing parents are made later.

    Raises:
        ValueError: The path is one of the inputs, is a folder instead of a file or the reverse, has no parent folder,
            or may not be written.
    """
    path = Path(path)
    if any(path.exists() and Path(given).exists() and path.samefile(given) for given in inputs):
        raise ValueError(f"{path} is an input too; give another name for the output")
    if folder:
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path} is a file; a folder is written there")
        home = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    else:
        if path.is_dir():
            raise ValueError(f"{path} is a folder; give the name of a file to write")
        home = path.absolute().parent
    if not home.is_dir():
        raise ValueError(f"{path} cannot be written: there is no folder {home}")
    if not os.access(home, os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise ValueError(f"{path} cannot be written: no permission")


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, completely or not at all."""
    replacing(path, lambda temporary: temporary.write_bytes(text.encode("utf-8")))


def write_csv(path: str | Path, rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file, completely or not at all; the first row holds the names of the columns."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())


def write_table(path: str | Path, rows: Sequence[Sequence[Any]]) -> None:
    """Write a CSV file, or Parquet if its name ends in `.parquet`; the first row holds the names of the columns.

    Raises:
        MissingPackageError: Parquet needs pyarrow, which is not installed.
    """
    if Path(path).suffix != ".parquet":
        write_csv(path, rows)
        return
    import pandas as pd  # slow to import

    needs("pyarrow", "tables", str(path))
    replacing(path, pd.DataFrame(list(rows[1:]), columns=list(rows[0])).to_parquet)


def write_figure(path: str | Path, figure: Any, dpi: int = 120) -> None:
    """Write a matplotlib figure in the format of its suffix (PNG without one), completely or not at all."""
    form = Path(path).suffix.lstrip(".").lower() or "png"
    replacing(path, lambda temporary: figure.savefig(temporary, dpi=dpi, format=form))


def unzipped(packed: bytes, limit: int, where: str) -> bytes:
    """Unpack gzip data up to a limit, since a few kB can unpack to terabytes.

    Args:
        packed: The data.
        limit: Largest number of bytes that they may unpack to.
        where: What messages call them.

    Raises:
        ValueError: They unpack to more.
        OSError: They are not gzip data (`gzip.BadGzipFile`).
        EOFError: They are truncated.
    """
    with gzip.GzipFile(fileobj=io.BytesIO(packed)) as stream:
        return read_bounded(stream, limit, where)


def read_bounded(stream: IO[bytes] | gzip.GzipFile, limit: int, where: str) -> bytes:
    """The rest of a stream, but no more of it than makes sense.

    Args:
        stream: For example a member of an archive.
        limit: The most bytes that it may hold.
        where: What messages call it.

    Raises:
        ValueError: It holds more.
    """
    found = stream.read(limit + 1)
    if len(found) > limit:
        raise ValueError(f"{where} unpacks to more than {limit:,} bytes")
    return found
