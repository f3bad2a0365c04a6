"""Images of the library `datasets`: saved folders, data sets of the Hugging Face hub, and local files it reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blockzoo.tasks.core.extras import needs
from blockzoo.tasks.core.label_tables import LABEL_COLUMNS, LabelTable, class_numbers, named_label, several_labels
from blockzoo.tasks.core.labelled_files import UnreadableFileError
from blockzoo.tasks.images.records import Records
from blockzoo.tasks.images.tables import IMAGE_COLUMNS, SplitImages

__all__ = ["HuggingFaceImages"]

_SPLITS = {"train": ("train",), "val": ("validation", "valid", "val", "dev"), "test": ("test",)}


def _library() -> Any:
    return needs("datasets", "images", "HuggingFaceImages")


class _HubRecords(Records):
    """The column of images of a split, encoded."""

    def __init__(
        self, rows: Any, column: str, where: str, labels: Sequence[tuple[int, ...]], several: int | None
    ) -> None:
        super().__init__(labels, several)
        self.images, self.column, self.where = rows, column, where

    def _content(self, row: int) -> bytes | Path:
        value = self.images[row][self.column]
        content = value.get("bytes") if isinstance(value, dict) else None
        if content is None and (not isinstance(value, dict) or not value.get("path")):
            raise UnreadableFileError(f"{self._place(row)}: no image in the column {self.column}")
        return content if content is not None else Path(value["path"])

    def _place(self, row: int) -> str:
        return f"{self.where}, row {row + 1}"


class HuggingFaceImages(SplitImages):
    """A data set of the library `datasets` (the extra `images`) with a column of images and one of labels.

    Args:
        path: A folder that `save_to_disk` wrote; or what `datasets.load_dataset` takes: OWNER/NAME on the Hugging Face
            hub, or a folder of Parquet files or images.
        name: Configuration of the data set.
        revision: Version on the hub.
        cache_dir: Folder for downloads.
        train_split: Name of the training part.
        val_split: Name of the validation part; by default "validation" or the like where there is one, see also
            `val_fraction`.
        test_split: Name of the test part; by default "test" where there is one.
        image_column: Column of the images; by default the first one of them.
        label_column: Column of the labels; by default "label", "labels", "class" or the like.
        **kwargs: See `blockzoo.tasks.images.tables.SplitImages`.

    Raises:
        ValueError: The data set cannot be had, lacks a part or a column, or has an unknown label; the message names the
            row.
        MissingPackageError: `datasets` is not installed.
    """

    def __init__(
        self,
        path: str,
        name: str | None = None,
        revision: str | None = None,
        cache_dir: str | None = None,
        train_split: str = "train",
        val_split: str | None = None,
        test_split: str | None = None,
        image_column: str | None = None,
        label_column: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.path, self.name, self.revision, self.cache_dir = path, name, revision, cache_dir
        self.splits = {"train": train_split, "val": val_split, "test": test_split}
        self.image_column, self.label_column = image_column, label_column

    def _open(self) -> Any:
        datasets = _library()
        saved = ("dataset_dict.json", "dataset_info.json")
        try:
            if any((Path(self.path) / file).is_file() for file in saved):
                found = datasets.load_from_disk(self.path)
            else:
                found = datasets.load_dataset(self.path, self.name, revision=self.revision, cache_dir=self.cache_dir)
        except Exception as error:  # the library's errors, and those of its readers, have no common base
            first = (str(error).strip().splitlines() or [""])[0]
            raise ValueError(f"path={self.path!r} cannot be loaded: {type(error).__name__}: {first}") from error
        return found if isinstance(found, dict) else {self.splits["train"]: found}

    def prepare_data(self) -> None:
        """Download, by one process of a machine."""
        self._open()

    def _parts(self) -> dict[str, Any]:
        opened = self._open()
        found: dict[str, Records] = {}
        for part, usual in _SPLITS.items():
            wanted = self.splits[part]
            split = wanted if wanted is not None else next((key for key in usual if key in opened), None)
            if split is None:
                continue
            if split not in opened:
                raise ValueError(f"{self.path} has no part {split!r}; its parts are {', '.join(map(str, opened))}")
            found[part] = self._records(opened[split], split, self.class_names if part != "train" else None)
        return self._held_out(found)

    def _records(self, rows: Any, split: str, names: tuple[str, ...] | None) -> Records:
        datasets, features = _library(), rows.features
        columns: dict[str, Any] = dict.fromkeys(rows.column_names)
        table = LabelTable(Path(f"{self.path} ({split})"), columns, [f"row {i + 1}" for i in range(len(rows))])
        images = [key for key, feature in features.items() if isinstance(feature, datasets.Image)]
        image = table.name(self.image_column or next(iter(images), None), IMAGE_COLUMNS, "image_column")
        if image not in images:
            raise ValueError(f"{table.path}: the column {image} holds no images but {features[image]}")
        label = table.name(self.label_column, LABEL_COLUMNS, "label_column")
        columns[label] = list(rows[label])
        kind = features[label]
        inner = getattr(kind, "feature", kind)
        if isinstance(inner, datasets.ClassLabel):
            columns[label] = [
                named_label(value, inner.names, table.place(row)) for row, value in enumerate(columns[label])
            ]
            names = tuple(inner.names) if names is None else names
        texts = several_labels(table, [label], None)
        self.class_names, labels = class_numbers(texts, table.place, names, self.multi_label)
        encoded = rows.select_columns([image]).cast_column(image, datasets.Image(decode=False))
        several = len(self.class_names) if self.multi_label else None
        return _HubRecords(encoded, image, str(table.path), labels, several)

    @property
    def description(self) -> dict[str, str]:
        """See `ZooData.description`."""
        parts = ", ".join(name for name in self.splits.values() if name)
        return {"dataset": self.path, "license": "unknown", "split": f"parts {parts}{self._words_of_split}"}
