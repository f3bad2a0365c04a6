"""Images of the library `datasets`: saved folders, data sets of the Hugging Face hub, and local files it reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blockzoo.tasks.core.extras import MissingPackageError, needs
from blockzoo.tasks.core.label_tables import LABEL_COLUMNS, LabelTable, class_numbers, named_label, several_labels
from blockzoo.tasks.core.labelled_files import UnreadableFileError
from blockzoo.tasks.images.records import Records
from blockzoo.tasks.images.tables import IMAGE_COLUMNS, SplitImages

__all__ = ["HuggingFaceImages"]

_SPLITS = {"train": ("train",), "val": ("validation", "valid", "val", "dev"), "test": ("test",)}

_FIRST_WITHOUT_SCRIPTS = 4
"""The first major version of `datasets` that never runs code of a data set."""


def _library() -> Any:
    datasets = needs("datasets", "images", "HuggingFaceImages")
    if int(datasets.__version__.partition(".")[0]) < _FIRST_WITHOUT_SCRIPTS:
        raise MissingPackageError(
            f"datasets {datasets.__version__} runs the scripts of data sets; update it: pip install 'blockzoo[images]'"
        )
    return datasets


def _folders_of_downloads(cache_dir: str | None) -> list[Path]:
    """Where the library puts files that it downloads or unpacks."""
    config = _library().config
    names = ("HF_DATASETS_CACHE", "DOWNLOADED_DATASETS_PATH", "EXTRACTED_DATASETS_PATH", "HF_HUB_CACHE")
    given = [getattr(config, name, None) for name in names]
    return [Path(folder).resolve() for folder in (cache_dir, *given) if folder]


class _HubRecords(Records):
    """The column of images of a split, encoded.

    Args:
        rows: The split.
        column: Its column of images.
        where: What messages call it.
        labels: See `Records`.
        several: See `Records`.
        folders: Where files must be that a row names, for a data set that someone else made; None for anywhere.
    """

    def __init__(
        self,
        rows: Any,
        column: str,
        where: str,
        labels: Sequence[tuple[int, ...]],
        several: int | None,
        folders: list[Path] | None,
    ) -> None:
        super().__init__(labels, several)
        self.images, self.column, self.where, self.folders = rows, column, where, folders

    def _content(self, row: int) -> bytes | Path:
        value = self.images[row][self.column]
        content = value.get("bytes") if isinstance(value, dict) else None
        if content is None and (not isinstance(value, dict) or not value.get("path")):
            raise UnreadableFileError(f"{self._place(row)}: no image in the column {self.column}")
        if content is not None:
            return bytes(content)
        path = Path(value["path"])
        if self.folders is not None and not any(path.resolve().is_relative_to(folder) for folder in self.folders):
            raise UnreadableFileError(f"{self._place(row)}: it names {path}, which is no file of the data set")
        return path

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
        self.used_splits: list[str] = []
        self.image_column, self.label_column = image_column, label_column

    @property
    def _is_local(self) -> bool:
        return bool(self.path) and Path(self.path).exists()

    def _open(self) -> Any:
        datasets = _library()
        if not self._is_local and "/" not in self.path:  # the library takes such a name for one of its own readers
            raise ValueError(f"path={self.path!r} is no folder here, and no data set on the hub, which is OWNER/NAME")
        path = str(Path(self.path).absolute()) if self._is_local else self.path
        saved = ("dataset_dict.json", "dataset_info.json")
        try:
            if any((Path(path) / file).is_file() for file in saved):
                found = datasets.load_from_disk(path)
            else:
                found = datasets.load_dataset(path, self.name, revision=self.revision, cache_dir=self.cache_dir)
        except Exception as error:  # the library's errors, and those of its readers, have no common base
            first = (str(error).strip().splitlines() or [""])[0]
            raise ValueError(f"path={self.path!r} cannot be loaded: {type(error).__name__}: {first}") from error
        return found if isinstance(found, dict) else {self.splits["train"]: found}

    def prepare_data(self) -> None:
        """Download, by one process of a machine."""
        self._open()

    def _parts(self) -> dict[str, Any]:
        opened = self._open()
        self.used_splits = []
        found: dict[str, Records] = {}
        for part, usual in _SPLITS.items():
            wanted = self.splits[part]
            split = wanted if wanted is not None else next((key for key in usual if key in opened), None)
            if split is None:
                continue
            if split not in opened:
                raise ValueError(f"{self.path} has no part {split!r}; its parts are {', '.join(map(str, opened))}")
            self.used_splits.append(split)
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
        folders = None if self._is_local else _folders_of_downloads(self.cache_dir)
        return _HubRecords(encoded, image, str(table.path), labels, several, folders)

    @property
    def description(self) -> dict[str, str]:
        """See `ZooData.description`."""
        parts = ", ".join(self.used_splits)
        return {"dataset": self.path, "license": "unknown", "split": f"parts {parts}{self._words_of_split}"}
