"""Images that a table lists: CSV, JSON, JSON lines, and Parquet, which may hold the images too."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from blockzoo.tasks.core.image_files import IMAGE_SUFFIXES
from blockzoo.tasks.core.label_tables import LABEL_COLUMNS, LabelTable, class_numbers, read_table, several_labels
from blockzoo.tasks.core.split import stratified_split
from blockzoo.tasks.images.folders import Images
from blockzoo.tasks.images.records import FileRecords, Records, TableRecords

__all__ = ["ImageTable", "SplitImages"]

IMAGE_COLUMNS = ("image", "path", "file", "file_name", "filename", "image_path", "filepath", "img")
_PARTS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val"}
_PARTS |= {"test": "test", "testing": "test"}


class SplitImages(Images):
    """Images whose parts are given one by one, or whose validation part is taken from the training part.

    Args:
        val_fraction: Share of the training part, by class, that is held out where no validation part is given.
        split_seed: Seed of that choice.
        multi_label: An image may have no label or several; the task needs `multi_label=true` too.
        skip_broken: Decode every image once before training, and go on without those that cannot be read; they are
            named. By default the first of them stops the run when it is met.
        **kwargs: See `blockzoo.tasks.images.folders.Images`.
    """

    def __init__(
        self,
        val_fraction: float = 0.0,
        split_seed: int = 0,
        multi_label: bool = False,
        skip_broken: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0 <= val_fraction < 1:
            raise ValueError(f"val_fraction={val_fraction} must be in [0, 1)")
        self.val_fraction, self.split_seed = val_fraction, split_seed
        self.multi_label, self.skip_broken = multi_label, skip_broken

    def _held_out(self, parts: dict[str, Records]) -> dict[str, Any]:
        """The parts without broken images, and with a validation part if there is to be one."""
        kept = self._skipping(parts) if self.skip_broken else dict(parts)
        if "val" not in kept and self.val_fraction:
            labels = kept["train"].labels
            # A sample with several classes counts as its first one.
            first = torch.tensor([own[0] if own else -1 for own in labels])
            fit, held = stratified_split(first, self.val_fraction, self.split_seed)
            train = kept["train"]
            kept["train"], kept["val"] = train.only(fit.tolist()), train.only(held.tolist())
        empty = next((part for part, records in kept.items() if not len(records)), None)
        if empty is not None:
            raise ValueError(f"the {empty} part of {self.description['dataset']} has no images")
        return {part: kept[part] for part in ("train", "val", "test") if part in kept}

    @property
    def _words_of_split(self) -> str:
        share = f"; {self.val_fraction:.0%} of the training part, by class, held out (seed {self.split_seed})"
        return (share if self.val_fraction else "") + self._words_of_skipped


class ImageTable(SplitImages):
    """Images and labels that a table lists, one image a row.

    Tables are CSV (`.csv`, `.tsv`), JSON (`.json`: a list of objects, an object of columns, or an object from files to
    labels), JSON lines (`.jsonl`), or Parquet (`.parquet`; needs pyarrow, the extra `tables`). A row names a file. In
    Parquet it may hold the encoded image instead, as bytes or as the library `datasets` writes images; such a table is
    held in memory as it is encoded.

    Args:
        train: Table of the training part.
        val: Table of the validation part; None for none, or see `val_fraction` and `split_column`.
        test: Table of the test part.
        root: Folder that paths are relative to; by default the folder of each table.
        image_suffix: What is put behind each path, for tables that name files without their ending, such as ".jpg".
        image_column: Column of the paths or images; by default "image", "path", "file", "file_name" or the like.
        label_column: Column of the labels; by default "label", "labels", "class", "category", "target" or the like.
        label_columns: Instead of it columns of 0 and 1, each called like a class.
        label_separator: What stands between the labels of a cell, for example "|"; lists need none.
        split_column: Column of `train` that says which part a row belongs to: train, val or test.
        delimiter: What separates the cells of a CSV file; by default the one of comma, semicolon, tab and bar by which
            the first line has most cells.
        **kwargs: See `blockzoo.tasks.images.tables.SplitImages`.

    Raises:
        FileNotFoundError: A table is missing.
        ValueError: A table cannot be read, lacks a column, or names a file that is missing or a class that the training
            part does not have; the message names file and line.
    """

    def __init__(
        self,
        train: str,
        val: str | None = None,
        test: str | None = None,
        root: str | None = None,
        image_suffix: str = "",
        image_column: str | None = None,
        label_column: str | None = None,
        label_columns: list[str] | None = None,
        label_separator: str | None = None,
        split_column: str | None = None,
        delimiter: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if label_column is not None and label_columns:
            raise ValueError(f"label_column={label_column!r} and label_columns={label_columns} exclude each other")
        if split_column is not None and (val or test):
            raise ValueError(f"split_column={split_column!r} divides train alone; leave val and test out")
        several = label_separator is not None or len(label_columns or ()) > 1
        if several and not self.multi_label:
            given = f"label_separator={label_separator!r}" if label_separator else f"label_columns={label_columns}"
            raise ValueError(f"{given} gives an image several labels; set multi_label=true")
        self.tables = {part: name for part, name in (("train", train), ("val", val), ("test", test)) if name}
        self.root, self.delimiter, self.image_suffix = root, delimiter, image_suffix
        self.image_column, self.label_column, self.label_columns = image_column, label_column, label_columns
        self.label_separator, self.split_column = label_separator, split_column

    def _parts(self) -> dict[str, Any]:
        tables = {part: read_table(name, self.delimiter) for part, name in self.tables.items()}
        rows = {part: list(range(len(table))) for part, table in tables.items()}
        if self.split_column is not None:
            rows = self._split(tables["train"])
            tables = dict.fromkeys(rows, tables["train"])
        found: dict[str, Records] = {}
        for part in sorted(tables, key=("train", "val", "test").index):
            found[part] = self._records(tables[part], rows[part], self.class_names if part != "train" else None)
        return self._held_out(found)

    def _split(self, table: LabelTable) -> dict[str, list[int]]:
        name = table.name(self.split_column, (), "split_column")
        rows: dict[str, list[int]] = {}
        for row, value in enumerate(table.values(name)):
            part = _PARTS.get(str(value).lower())
            if part is None:
                raise ValueError(
                    f"{table.place(row)}: {value!r} in the column {name}, which must be train, val or test"
                )
            rows.setdefault(part, []).append(row)
        if "train" not in rows:
            raise ValueError(f"{table.path}: no row of the column {name} is train")
        return rows

    def _records(self, table: LabelTable, rows: list[int], names: tuple[str, ...] | None) -> Records:
        given: list[str | None] = [*self.label_columns] if self.label_columns else [self.label_column]
        usual = () if self.label_columns else LABEL_COLUMNS
        argument = "label_columns" if self.label_columns else "label_column"
        columns = [table.name(column, usual, argument) for column in given]
        if names is None and len(columns) == 1:
            names = table.classes.get(columns[0])
        texts = several_labels(table, columns, self.label_separator)
        chosen = [texts[row] for row in rows]
        if names is None and len(columns) > 1:
            names = tuple(columns)
        place = lambda index: table.place(rows[index])  # noqa: E731
        self.class_names, labels = class_numbers(chosen, place, names, self.multi_label)
        image = table.name(self.image_column, IMAGE_COLUMNS, "image_column")
        several = len(self.class_names) if self.multi_label else None
        folder = Path(self.root) if self.root is not None else table.path.parent
        first = next((value for row in rows if (value := table.value(image, row)) is not None), None)
        if not isinstance(first, str):
            spread: list[tuple[int, ...]] = [()] * len(table)
            for row, own in zip(rows, labels, strict=True):
                spread[row] = own
            return TableRecords(table, image, folder, spread, several).only(rows)
        return self._files(table, image, folder, rows, labels, several)

    def _files(
        self,
        table: LabelTable,
        column: str,
        folder: Path,
        rows: list[int],
        labels: Sequence[tuple[int, ...]],
        several: int | None,
    ) -> Records:
        values = table.values(column)
        files, places = [], []
        for row in rows:
            if not isinstance(values[row], str) or not values[row]:
                raise ValueError(f"{table.place(row)}: no file in the column {column}")
            files.append(folder / f"{values[row]}{self.image_suffix}")
            places.append(table.place(row))
            if not self.skip_broken and not files[-1].is_file():
                ending = next(
                    (end for end in IMAGE_SUFFIXES if files[-1].with_name(files[-1].name + end).is_file()), None
                )
                advice = (
                    f"paths are relative to root, here {folder}" if ending is None else f"set image_suffix={ending}"
                )
                raise ValueError(f"{places[-1]}: no such file: {files[-1]} ({advice})")
        return FileRecords(files, labels, places, several)

    @property
    def description(self) -> dict[str, str]:
        """See `ZooData.description`."""
        split = f"column {self.split_column}" if self.split_column else ", ".join(self.tables.values())
        return {"dataset": self.tables["train"], "license": "unknown", "split": split + self._words_of_split}
