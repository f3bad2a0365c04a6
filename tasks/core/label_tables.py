"""Tables that say which sample has which label: CSV, JSON, JSON lines and Parquet, with the place of each row."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from blockzoo.tasks.core.extras import needs

__all__ = [
    "LABEL_COLUMNS",
    "TABLE_SUFFIXES",
    "LabelTable",
    "class_numbers",
    "named_label",
    "read_lines",
    "read_table",
    "several_labels",
]

TABLE_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")

LABEL_COLUMNS = ("label", "labels", "class", "classes", "category", "target", "tags")
"""What columns of labels are usually called."""

_LARGEST_TABLE, _LARGEST_GROWTH, _PARQUET_ROWS = 1 << 30, 32, 1024
"""Parquet may unpack to this many bytes and this many times its size; it is read by so many rows, to stop in time."""

_SAID = 8
"""Names that a message lists at most."""


class LabelTable:
    """The columns of a table, and where each of its rows stands.

    Args:
        path: The file.
        columns: Values of each column; what is no list is indexed when a value is asked for.
        places: For each row its place in the file, for example "line 7".
        classes: Names of the classes, in order, for columns of labels whose file tells them.
    """

    def __init__(
        self,
        path: Path,
        columns: dict[str, Any],
        places: Sequence[str],
        classes: dict[str, tuple[str, ...]] | None = None,
    ) -> None:
        self.path, self.columns, self.places, self.classes = path, columns, places, classes or {}

    def __len__(self) -> int:
        return len(self.places)

    def place(self, row: int) -> str:
        """The file and the place of a row in it, for messages."""
        return f"{self.path}, {self.places[row]}"

    def name(self, given: str | None, usual: Sequence[str], argument: str) -> str:
        """The column that was named, or the first of the usual names that the table has.

        Args:
            given: What the caller chose, if anything.
            usual: Names to look for otherwise, whatever their case.
            argument: The caller's argument, for messages.

        Raises:
            ValueError: There is no such column; the message lists those that there are.
        """
        lower = {name.lower(): name for name in reversed(self.columns)}
        found = given if given is not None else next((lower[name] for name in usual if name in lower), None)
        if found in self.columns:
            return str(found)
        wanted = f"{argument}={given!r}" if given is not None else f"a column called {' or '.join(usual[:3])}"
        raise ValueError(
            f"{self.path} has no {wanted}; its columns are {_listed(self.columns)}"
            + ("" if given is not None else f"; name one by {argument}")
        )

    def values(self, name: str) -> list[Any]:
        """All values of a column."""
        column = self.columns[name]
        return column if isinstance(column, list) else list(column.to_pylist())

    def value(self, name: str, row: int) -> Any:
        """One value of a column."""
        column = self.columns[name]
        return column[row] if isinstance(column, list) else column[row].as_py()


def _listed(names: Any) -> str:
    shown = [str(name) for name in names]
    return ", ".join(shown[:_SAID]) + (f" and {len(shown) - _SAID} more" if len(shown) > _SAID else "")


def read_table(path: str | Path, delimiter: str | None = None) -> LabelTable:
    """Read a table of samples.

    Args:
        path: A file that ends in one of `TABLE_SUFFIXES`. JSON is a list of objects, an object of equally long lists,
            or an object from files to labels, which become the columns "file" and "label"; JSON lines are one object on
            each line.
        delimiter: What separates the cells of a CSV file; by default the one of comma, semicolon, tab and bar by which
            the first line has most cells.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read; the message names the file and the line.
        MissingPackageError: It is Parquet, and pyarrow is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such table of labels")
    readers: dict[str, Callable[[Path], LabelTable]] = {
        ".json": _read_json,
        ".jsonl": _read_lines,
        ".ndjson": _read_lines,
        ".parquet": _read_parquet,
        ".csv": lambda file: _read_csv(file, delimiter),
        ".tsv": lambda file: _read_csv(file, delimiter or "\t"),
    }
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path} is no table that is read here; they end in {', '.join(TABLE_SUFFIXES)}")
    try:
        table = readers[path.suffix.lower()](path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    if not len(table):
        raise ValueError(f"{path} has no rows")
    return table


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, without a byte order mark.

    Raises:
        ValueError: It is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error


def _read_csv(path: Path, delimiter: str | None) -> LabelTable:
    if delimiter is not None and len(delimiter) != 1:
        raise ValueError(f"delimiter={delimiter!r} must be one character")
    with path.open(newline="", encoding="utf-8-sig") as file:
        first, above = file.readline(), 0
        if first.lower().startswith("sep="):  # as Excel writes it
            delimiter, above = delimiter or first.strip("\r\n")[4:5] or None, 1
            first = file.readline()
        file.seek(0)
        for _ in range(above):
            file.readline()
        if delimiter is None:
            delimiter = max(",;\t|", key=lambda sign: len(next(csv.reader([first], delimiter=sign), [])))
        reader = csv.reader(file, delimiter=delimiter)
        rows, places, start = [], [], 0
        try:
            for cells in reader:
                if cells:
                    rows.append(cells)
                    places.append(f"line {above + start + 1}")
                start = reader.line_num
        except csv.Error as error:
            raise ValueError(f"{path}, line {above + reader.line_num}: {error}") from error
    if not rows:
        raise ValueError(f"{path} is empty")
    names = [name.strip() for name in rows[0]]
    if len(set(names)) < len(names):
        raise ValueError(f"{path} has two columns of one name: {_listed(names)}")
    for cells, place in zip(rows[1:], places[1:], strict=True):
        if len(cells) != len(names):
            raise ValueError(
                f"{path}, {place}: {len(cells)} cells, the first line has {len(names)} columns ({_listed(names)}); "
                "is the delimiter another one?"
            )
    columns = {name: [cells[i].strip() for cells in rows[1:]] for i, name in enumerate(names)}
    return LabelTable(path, columns, places[1:])


def _records(path: Path, records: list[Any], places: list[str]) -> LabelTable:
    names: dict[str, None] = {}
    for record, place in zip(records, places, strict=True):
        if not isinstance(record, dict):
            raise ValueError(f"{path}, {place}: {str(record)[:40]!r} is no object of names and values")
        names |= dict.fromkeys(record)
    return LabelTable(path, {name: [record.get(name) for record in records] for name in names}, places)


def _read_json(path: Path) -> LabelTable:
    text = path.read_text(encoding="utf-8-sig")
    try:
        content = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: not valid JSON: {error.msg}") from error
    except ValueError as error:  # a name twice, or a number of thousands of digits
        raise ValueError(f"{path}: not valid JSON: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply") from error
    if isinstance(content, dict) and _is_mapping(content):
        columns = {"file": list(content), "label": list(content.values())}
        return LabelTable(path, columns, [f"entry {name!r}" for name in content])
    if isinstance(content, dict) and content and all(isinstance(value, list) for value in content.values()):
        lengths = {name: len(value) for name, value in content.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"{path} has columns of different lengths: {lengths}")
        return LabelTable(path, content, [f"record {i + 1}" for i in range(next(iter(lengths.values())))])
    if not isinstance(content, list):
        raise ValueError(f"{path} must hold a list of objects, an object of columns, or one from files to labels")
    return _records(path, content, [f"record {i + 1}" for i in range(len(content))])


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, in which no name may come twice: the earlier sample would vanish."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} comes twice in an object")
        found[name] = value
    return found


def _is_mapping(content: dict[str, Any]) -> bool:
    """Whether an object of JSON goes from files to labels: texts or numbers, or lists if its keys have endings."""
    plain = all(isinstance(value, str | int) for value in content.values())
    lists = all(isinstance(value, str | int | list) for value in content.values()) and all(map(_has_ending, content))
    return bool(content) and (plain or lists)


def _has_ending(name: str) -> bool:
    return bool(Path(name).suffix)


def _read_lines(path: Path) -> LabelTable:
    records, places = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            records.append(json.loads(line, object_pairs_hook=_unique))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number}: not valid JSON: {error}") from error
        places.append(f"line {number}")
    return _records(path, records, places)


def _read_parquet(path: Path) -> LabelTable:
    pyarrow = needs("pyarrow", "tables", str(path))
    parquet = needs("pyarrow.parquet", "tables", str(path))
    try:
        with parquet.ParquetFile(path) as file:
            batches, limit = [], _LARGEST_GROWTH * path.stat().st_size + _LARGEST_TABLE
            for batch in file.iter_batches(_PARQUET_ROWS):
                batches.append(batch)
                limit -= batch.nbytes
                if limit < 0:
                    raise ValueError("it unpacks to far more than its size")
            table = pyarrow.Table.from_batches(batches, file.schema_arrow)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{path} is not readable as Parquet: {str(error).splitlines()[0]}") from error
    columns: dict[str, Any] = {name: table.column(name) for name in table.column_names}
    found = LabelTable(path, columns, [f"row {i + 1}" for i in range(table.num_rows)], _class_labels(table.schema))
    for name, names in found.classes.items():
        numbers = enumerate(found.values(name))
        columns[name] = [named_label(value, names, found.place(row)) for row, value in numbers]
    return found


def _class_labels(schema: Any) -> dict[str, tuple[str, ...]]:
    """Names of the classes of columns that the library `datasets` has written as numbers."""
    text = (schema.metadata or {}).get(b"huggingface")
    try:
        features = json.loads(text)["info"]["features"] if text else {}
    except (ValueError, KeyError, TypeError):
        return {}  # another program's entry of that name
    found = {}
    for name, feature in features.items() if isinstance(features, dict) else ():
        inner = feature.get("feature", feature) if isinstance(feature, dict) else {}
        if name in schema.names and isinstance(inner, dict) and inner.get("_type") == "ClassLabel":
            found[name] = tuple(map(str, inner.get("names") or ()))
    return found


def named_label(value: Any, names: Sequence[str], place: str) -> Any:
    """The name of a class that is stored as a number, or the names of several.

    Args:
        value: The number, or a list of them.
        names: Names of the classes.
        place: Where it stands, for the message.

    Raises:
        ValueError: There is no class of that number.
    """
    if isinstance(value, list | tuple):
        return [named_label(item, names, place) for item in value]
    if not isinstance(value, int) or not 0 <= value < len(names):
        raise ValueError(f"{place}: label {value!r}; the data set names {len(names)} classes, numbered from 0")
    return names[value]


def several_labels(table: LabelTable, columns: Sequence[str], separator: str | None) -> list[tuple[str, ...]]:
    """The labels of each row, as text.

    Args:
        table: The table.
        columns: One column with the labels; or several that hold 0 or 1, each called like a class.
        separator: What stands between the labels of a cell; None where a cell has one label, or a list of them.

    Raises:
        ValueError: A cell has no label where `separator` is None, or is not 0 or 1; the message names its row.
    """
    if len(columns) > 1:
        found: list[list[str]] = [[] for _ in range(len(table))]
        for name in columns:
            for row, value in enumerate(table.values(name)):
                text = str(value).lower().removesuffix(".0")
                if text not in ("0", "1", "true", "false"):
                    raise ValueError(f"{table.place(row)}: {value!r} in the column {name}, which must hold 0 or 1")
                if text in ("1", "true"):
                    found[row].append(name)
        return [tuple(labels) for labels in found]
    labels = []
    for row, value in enumerate(table.values(columns[0])):
        if isinstance(value, list | tuple):
            if any(item is None or item == "" or item != item for item in value):
                raise ValueError(f"{table.place(row)}: a label in the column {columns[0]} is empty")
            labels.append(tuple(_text(item) for item in value))
        elif separator is not None:
            labels.append(tuple(part.strip() for part in str(value or "").split(separator) if part.strip()))
        elif value is None or value == "" or value != value:
            raise ValueError(f"{table.place(row)}: no label in the column {columns[0]}")
        else:
            labels.append((_text(value),))
    return labels


def _text(value: Any) -> str:
    """A label as text; whole numbers without a decimal point, whatever their type."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def class_numbers(
    labels: Sequence[tuple[str, ...]],
    place: Callable[[int], str],
    class_names: tuple[str, ...] | None = None,
    several: bool = False,
) -> tuple[tuple[str, ...], list[tuple[int, ...]]]:
    """Number classes in the order of their names; of their values where all names are whole numbers.

    Args:
        labels: The labels of each sample.
        place: Where a sample stands, for messages.
        class_names: The classes that there may be; by default those that there are.
        several: Whether a sample may have none, or several.

    Returns:
        Names of the classes, and each sample's classes by number, sorted.

    Raises:
        ValueError: A label is unknown, or a sample has not just one; the message names the sample.
    """
    for row, own in enumerate(labels):
        if not several and len(own) != 1:
            shown = ", ".join(own) or "none"
            raise ValueError(f"{place(row)}: {len(own)} labels ({shown}) where one is wanted; or set multi_label=true")
    if class_names is None:
        names = {label for own in labels for label in own}
        whole = all(name.removeprefix("-").isdecimal() for name in names)
        class_names = tuple(sorted(sorted(names), key=int) if whole else sorted(names))
    number = {name: i for i, name in enumerate(class_names)}
    found = []
    for row, own in enumerate(labels):
        for label in own:
            if label not in number:
                raise ValueError(f"{place(row)}: class {label!r} is not in the training part ({_listed(class_names)})")
        found.append(tuple(sorted({number[label] for label in own})))
    return class_names, found
