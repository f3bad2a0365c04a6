"""Labelled images wherever they are stored, and why some of them cannot be read."""

import abc
import copy
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from typing_extensions import Self

from blockzoo.tasks.core.image_files import load_image
from blockzoo.tasks.core.label_tables import LabelTable
from blockzoo.tasks.core.labelled_files import UnreadableFileError, content_digest, stat_digest

__all__ = ["FileRecords", "Records", "TableRecords", "unreadable"]


class Records(abc.ABC):
    """Encoded images with the numbers of their classes.

    Args:
        labels: Classes of every stored image: just one of each, or any number.
        several: The number of classes where an image may have any number of them, as a vector of zeros and ones; None
            where each has one.
    """

    def __init__(self, labels: Sequence[tuple[int, ...]], several: int | None = None) -> None:
        self._labels, self.several = labels, several
        self.rows: Sequence[int] = range(len(labels))

    def __len__(self) -> int:
        return len(self.rows)

    @abc.abstractmethod
    def _content(self, row: int) -> bytes | Path:
        """The encoded image, or its file."""

    @abc.abstractmethod
    def _place(self, row: int) -> str:
        """Where an image stands, for messages."""

    def only(self, rows: Sequence[int]) -> Self:
        """Some of these images, by their places among them."""
        fewer = copy.copy(self)
        fewer.rows = [self.rows[row] for row in rows]
        return fewer

    @property
    def labels(self) -> list[tuple[int, ...]]:
        """The classes of each image."""
        return [self._labels[row] for row in self.rows]

    def name(self, index: int) -> str:
        """What the image is called in tables of predictions."""
        return self._place(self.rows[index])

    def image(self, index: int, channels: int) -> Any:
        """The decoded image.

        Raises:
            UnreadableFileError: It cannot be decoded; the message says where it stands.
        """
        row = self.rows[index]
        content, place = self._content(row), self._place(row)
        if isinstance(content, bytes):
            return load_image(place, channels, content)
        try:
            return load_image(content, channels)
        except UnreadableFileError as error:
            raise UnreadableFileError(str(error) if str(content) == place else f"{place}: {error}") from error

    def read(self, index: int, channels: int) -> tuple[Any, Any]:
        """The decoded image and its label: a number, or a vector of zeros and ones."""
        own = self._labels[self.rows[index]]
        label: Any = own[0] if self.several is None else torch.zeros(self.several)
        if self.several is not None:
            label[list(own)] = 1.0
        return self.image(index, channels), label

    def fingerprint(self, known: dict[str, str]) -> dict[str, str]:
        """What tells these images from others, see `blockzoo.tasks.raptor.activations`."""
        digest = hashlib.sha256()
        for index, row in enumerate(self.rows):
            image = self.image(index, 3)
            digest.update(f"{self._labels[row]}:{image.size}:".encode())
            digest.update(np.asarray(image).tobytes())
        return {"content": digest.hexdigest()}


class FileRecords(Records):
    """Image files.

    Args:
        files: The files.
        labels: Their classes, see `Records`.
        places: Where each file is named, for messages; by default the files themselves.
        several: See `Records`.
    """

    def __init__(
        self,
        files: Sequence[Path],
        labels: Sequence[tuple[int, ...]],
        places: Sequence[str] | None = None,
        several: int | None = None,
    ) -> None:
        super().__init__(labels, several)
        self.files, self.places = files, places

    def _content(self, row: int) -> Path:
        return self.files[row]

    def _place(self, row: int) -> str:
        return str(self.files[row]) if self.places is None else self.places[row]

    def name(self, index: int) -> str:
        """The file's path."""
        return str(self.files[self.rows[index]])

    def fingerprint(self, known: dict[str, str]) -> dict[str, str]:
        """See `Records.fingerprint`; files whose sizes and times have not changed are not read again."""
        files: list[tuple[Path, Any]] = [(self.files[row], self._label(row)) for row in self.rows]
        stats = stat_digest(files)
        if known.get("files") == stats:  # untouched since the contents were read
            return known
        return {"files": stats, "content": content_digest(files)}

    def _label(self, row: int) -> Any:
        return self._labels[row][0] if self.several is None else self._labels[row]


class TableRecords(Records):
    """Encoded images in a column of a table.

    Args:
        table: The table.
        column: Its column of bytes, or of objects with the bytes under "bytes" or a file under "path", as the library
            `datasets` writes them.
        folder: What those paths are relative to.
        labels: Their classes, see `Records`.
        several: See `Records`.
    """

    def __init__(
        self,
        table: LabelTable,
        column: str,
        folder: Path,
        labels: Sequence[tuple[int, ...]],
        several: int | None = None,
    ) -> None:
        super().__init__(labels, several)
        self.table, self.column, self.folder = table, column, folder

    def _content(self, row: int) -> bytes | Path:
        value = self.table.value(self.column, row)
        if isinstance(value, dict):
            value = value["bytes"] if value.get("bytes") is not None else value.get("path")
        if isinstance(value, str):
            return self.folder / value
        if not isinstance(value, bytes):
            raise UnreadableFileError(f"{self._place(row)}: no image in the column {self.column}")
        return value

    def _place(self, row: int) -> str:
        return self.table.place(row)


def unreadable(records: Records) -> list[str | None]:
    """Decode every image once, by several threads: why it cannot be decoded, or None, for each."""

    def wrong(index: int) -> str | None:
        try:
            records.image(index, 3)
        except (ValueError, OSError) as error:
            return str(error)
        return None

    with ThreadPoolExecutor() as pool:
        return list(pool.map(wrong, range(len(records))))
