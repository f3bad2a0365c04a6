"""Dates in the cells of tables, as their texts say: with or without offsets from UTC."""

import re
from typing import Any, cast

import numpy as np

__all__ = ["DATE_NAMES", "is_iso_date", "offset_text", "parse_dates"]

DATE_NAMES = ("date", "datetime", "date_time", "timestamp", "time", "ds", "month")
"""Names of columns, whatever their case, that are taken for the dates where there is no column `date`."""

_DATE_FORMATS = ("%Y/%m/%d %H:%M", "%Y/%m/%d %H:%M:%S", "%Y/%m/%d", "%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%d.%m.%Y",
                 "%Y-%m", "%Y")  # fmt: skip

_ISO = re.compile(
    r"(\d{4}-?\d{2}-?\d{2}(?:[T ]\d{2}(?::?\d{2}(?::?\d{2}(?:[.,]\d+)?)?)?)?) ?([Zz]|[+-]\d{2}(?::?\d{2})?)?"
)


def is_iso_date(text: str) -> bool:
    """Whether a text is a date, or a date and time, by ISO 8601."""
    return _ISO.fullmatch(text) is not None


def parse_dates(
    path: str, column: str, cells: Any, lines: np.ndarray, date_format: str | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Read dates.

    Args:
        path: The file, for messages.
        column: The column, for messages.
        cells: pandas Series of texts.
        lines: Lines that they come from, for messages.
        date_format: As in `datetime.strptime`, or "s" or "ms" for seconds or milliseconds since 1970; by default ISO
            8601 and a few unambiguous formats are tried on the first text.

    Returns:
        Dates, datetime64[ms] (rows,), in UTC if they have offsets, and the offsets in minutes, int64 (rows,), or None.

    Raises:
        ValueError: A text is not a date in the format of the first one; the message names its line.
    """
    if date_format in ("s", "ms"):
        return _since_1970(path, column, cells, lines, date_format), None
    first = str(cells.iloc[0]).strip()
    iso = _ISO.fullmatch(first) if date_format is None else None
    formats = [date_format] if date_format is not None else [] if iso else list(_DATE_FORMATS)
    chosen = next((known for known in formats if _one_date(first, known) is not None), None)
    if chosen == "%Y" and date_format is None:
        _refuse_ids(path, column, [text.strip() for text in cells.tolist()], lines)
    found = _alike(cells, first, iso, chosen)
    if found is not None:
        return found
    texts = [text.strip() for text in cells.tolist()]
    pairs: list[tuple[np.datetime64, int | None] | None] = [None]
    if iso:
        pairs = [_iso_date(text, zoned=iso[2] is not None) for text in texts]
    elif chosen is not None:
        pairs = [_one_date(text, chosen) for text in texts]
    for text, line, pair in zip(texts, lines.tolist(), pairs, strict=False):
        if pair is None:
            known = chosen is not None or iso is not None
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


def _alike(
    cells: Any, first: str, iso: "re.Match[str] | None", chosen: str | None
) -> tuple[np.ndarray, np.ndarray | None] | None:
    """All dates at once if they have the very form of the first one, else None."""
    import pandas as pd  # slow to import

    ending = ""
    if iso:
        day = "%Y-%m-%d" if "-" in iso[1][:8] else "%Y%m%d"
        clock = iso[1][10 if "-" in iso[1][:8] else 8 :]
        separator, clock = clock[:1], clock[1:].replace(",", ".")
        whole, dot, _ = clock.partition(".")
        colon = ":" if ":" in whole else ""
        count = len(whole.replace(":", "")) // 2
        form = day + separator + colon.join(("%H", "%M", "%S")[:count]) + ("%f".join((dot, "")) if dot else "")
        ending = first[len(iso[1]) :]
    elif chosen is not None and "%z" not in chosen.lower():
        form = chosen
    else:
        return None
    offsets = None
    if ending:
        if cells.str.len().nunique() != 1:
            return None
        codes, endings = pd.factorize(cells.str.slice(-len(ending)))
        matches = [re.fullmatch(r" ?([Zz]|[+-]\d{2}(?::?\d{2})?)", text) for text in endings.tolist()]
        if not all(matches):
            return None
        offsets = np.array([_minutes(match[1]) for match in matches if match], dtype=np.int64)[codes]
        cells = cells.str.slice(0, -len(ending))
    found = pd.to_datetime(cells, format=form, errors="coerce")
    if found.isna().any():
        return None
    dates = found.to_numpy("datetime64[ms]")
    return (dates, None) if offsets is None else (dates - offsets.astype("timedelta64[m]"), offsets)


def _since_1970(path: str, column: str, cells: Any, lines: np.ndarray, unit: str) -> np.ndarray:
    """Dates that stand as numbers of seconds ("s") or milliseconds ("ms") since 1970, datetime64[ms]."""
    import pandas as pd  # slow to import

    numbers = pd.to_numeric(cells, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    for place in np.flatnonzero(~(np.abs(numbers) < 1e14))[:1]:
        raise ValueError(
            f"{path}, line {lines[place]}, column {column!r}: {cells.iloc[place]!r} is not a number of "
            f"{'seconds' if unit == 's' else 'milliseconds'} since 1970, which date_format={unit!r} reads"
        )
    return np.round(numbers * (1000 if unit == "s" else 1)).astype(np.int64).astype("datetime64[ms]")


def _refuse_ids(path: str, column: str, texts: list[str], lines: np.ndarray) -> None:
    """Refuse whole numbers that are hardly years."""
    for text, line in zip(texts, lines.tolist(), strict=True):
        if not re.fullmatch(r"\d{4}", text):
            continue
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
    return date, _minutes(match[2])


def _minutes(offset: str) -> int:
    """Minutes from UTC of an offset such as "Z", "+01:00" or "-0430"."""
    digits = re.sub(r"\D", "", offset).ljust(4, "0")
    minutes = int(digits[:2]) * 60 + int(digits[2:])
    return -minutes if offset.startswith("-") else minutes


def _one_date(text: str, date_format: str) -> tuple[np.datetime64, int | None] | None:
    from datetime import datetime

    try:
        date = datetime.strptime(text, date_format)
    except ValueError:
        return None
    offset = date.utcoffset()
    minutes = None if offset is None else round(offset.total_seconds() / 60)
    return np.datetime64(date.replace(tzinfo=None), "ms"), minutes


def offset_text(minutes: int) -> str:
    """An offset from UTC in the form that follows a date, such as "+01:00"."""
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"
