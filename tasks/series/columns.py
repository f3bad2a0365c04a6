"""Choice of a table's columns: dates, channels, and columns to ignore."""

import re
from collections.abc import Sequence

import numpy as np

from blockzoo.tasks.series.dates import DATE_NAMES, is_iso_date
from blockzoo.tasks.series.table_files import Source

__all__ = ["channel_columns", "date_column_of", "guessed_date_column", "nameless_column", "refuse_long"]


def nameless_column(header: Sequence[str]) -> str | None:
    """The column without a name, or with the one that pandas gives to such, if there is one."""
    return next((name for name in header if name == "" or re.fullmatch(r"Unnamed: \d+", name)), None)


def guessed_date_column(header: Sequence[str], column: str | None) -> str | None:
    """The given column of dates; for the default, "date", the one that is named as in `DATE_NAMES` if it is missing."""
    known = [name for name in header if name.lower() in DATE_NAMES]
    return known[0] if column == "date" and "date" not in header and len(known) == 1 else column


def date_column_of(source: Source, column: str | None) -> tuple[str | None, str | None]:
    """Find the column of dates, and a nameless column that is not a channel.

    Raises:
        ValueError: A column without a name neither counts the rows nor holds the dates.
    """
    unnamed = nameless_column(source.header)
    column = guessed_date_column(source.header, column)
    if unnamed is None or unnamed == column:
        return column, None
    cells = source.cells(unnamed).str.strip()
    if (cells == "").all():  # behind a delimiter at the end of every line
        return column, unnamed
    if cells.str.fullmatch(r"\d{1,18}").all() and (np.diff(cells.to_numpy(dtype=object).astype(np.int64)) == 1).all():
        return column, unnamed
    if column == "date" and column not in source.header and len(cells) and is_iso_date(cells.iloc[0]):
        return unnamed, unnamed
    raise ValueError(
        f"{source.path}, line 1: column {source.header.index(unnamed) + 1} has no name, and neither counts the rows "
        "nor holds the dates; give it a name in the header"
    )


def channel_columns(
    path: str, header: list[str], columns: Sequence[str] | None, date_column: str | None, unnamed: str | None,
    beside: Sequence[str] = (),
) -> list[str]:  # fmt: skip
    """Names of the channels to read, checked against the header.

    Raises:
        ValueError: A column is missing, or there is no channel.
    """
    others = (date_column, unnamed, *beside)
    wanted = [name for name in header if name not in others] if columns is None else list(columns)
    for name in [*wanted, *([date_column] if date_column is not None else [])]:
        if name not in header:
            hint = "; date_column names that of the dates, null reads a file without" if name == date_column else ""
            raise ValueError(f"{path}, line 1: no column {name!r}; there are {', '.join(map(repr, header))}{hint}")
    if not wanted:
        raise ValueError(f"{path}, line 1: no column besides {date_column!r}")
    return wanted


def refuse_long(path: str, source: Source, dates: np.ndarray, date_column: str) -> None:
    """Refuse a table that holds several series, one below the other."""
    if (np.diff(dates).astype(np.int64) > 0).all():
        return
    distinct = len(np.unique(dates))
    if len(dates) < 4 or distinct > len(dates) / 2:
        return
    keys = []
    for name in source.header:
        if name != date_column:
            found = set(source.cells(name).tolist())
            if 1 < len(found) <= len(dates) / 2 and not all(re.fullmatch(r"[-+.,\d eE]*", text) for text in found):
                keys.append(f"{name!r} ({', '.join(sorted(found)[:3])}{', ..' * (len(found) > 3)})")
    by = f", one for each {' or '.join(keys)}" if keys else ""
    raise ValueError(
        f"{path}: {len(dates)} rows but {distinct} dates in column {date_column!r}: several series stand one below the "
        f"other{by} (long format); id_column names the column that tells them apart"
    )
