"""Cells of tables: how numbers and missing values are read."""

import math
import re

__all__ = ["MISSING", "blank_cells", "parse_cell"]

MISSING = ("", "na", "n/a", "nan", "null", "none", "?")
"""Cells that stand for a missing value, whatever their case."""


def blank_cells(missing_values: tuple[str, ...] = ()) -> set[str]:
    """`MISSING` and further cells that stand for missing values, in lower case."""
    return {text.strip().lower() for text in (*MISSING, *missing_values)}


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
