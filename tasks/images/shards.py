"""Images in tar archives as webdataset writes them: the files of a sample share their name up to the first dot."""

import glob
import json
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blockzoo.tasks.core.image_files import IMAGE_SUFFIXES
from blockzoo.tasks.core.label_tables import LABEL_COLUMNS, LabelTable, class_numbers, read_lines, several_labels
from blockzoo.tasks.images.records import Records
from blockzoo.tasks.images.tables import SplitImages

__all__ = ["ImageShards", "shard_files"]

_KEY = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")
"""A member's key and its extension, by webdataset's rule."""

_LABELS = ("cls", "json", "txt", "label", "cls.txt")
_LARGEST_LABEL = 1 << 20


class _ShardRecords(Records):
    """Encoded images at known places of archives."""

    def __init__(
        self, places: list[tuple[Path, str, int, int]], labels: Sequence[tuple[int, ...]], several: int | None
    ) -> None:
        super().__init__(labels, several)
        self.places = places

    def _content(self, row: int) -> bytes:
        path, _, start, size = self.places[row]
        with path.open("rb") as file:
            file.seek(start)
            return file.read(size)

    def _place(self, row: int) -> str:
        path, key, _, _ = self.places[row]
        return f"{path}, key {key}"


def shard_files(given: str) -> list[Path]:
    """The archives that a text names: a file, a folder of them, a pattern with `*`, or a range `{000..012}`.

    Raises:
        FileNotFoundError: One of them is missing, or nothing fits the pattern.
        ValueError: The range is empty.
    """
    if span := re.fullmatch(r"(.*)\{(\d+)\.\.(\d+)\}(.*)", given):
        before, low, high, behind = span.groups()
        numbers = range(int(low), int(high) + 1)
        if not numbers:
            raise ValueError(f"{given}: the range ends before it begins")
        spelt = (f"{before}{number:0{len(low)}}{behind}" for number in numbers)
        names = []
        for name in spelt:  # stops at the first that is missing, however long the range is
            names.append(name)
            if not Path(name).is_file():
                break
    elif Path(given).is_dir():
        names = [str(path) for path in sorted(Path(given).glob("*.tar"))]
    elif glob.has_magic(given):
        names = sorted(glob.glob(given))
    else:
        names = [given]
    missing = next((name for name in names if not Path(name).is_file()), None)
    if missing is not None or not names:
        raise FileNotFoundError(
            f"{missing or given}: no such archive; give FILE.tar, a folder, *.tar or {{000..012}}.tar"
        )
    return [Path(name) for name in names]


def _members(path: Path) -> list[tuple[str, dict[str, tarfile.TarInfo]]]:
    """The samples of an archive: their keys, and their files by extension."""
    found: list[tuple[str, dict[str, tarfile.TarInfo]]] = []
    seen: set[str] = set()
    end = 0
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                matched = _KEY.fullmatch(member.name)
                hidden = Path(member.name).name.startswith(".")
                if member.size < 0:
                    raise ValueError(f"{path} is not a whole tar archive: {member.name!r} has a negative size")
                if matched is None or hidden or member.isdir():
                    continue
                key, extension = matched[1], matched[2].lower()
                if not member.isreg() or member.issparse():
                    raise ValueError(f"{path}, key {key}: .{extension} is a link, not a file; archive files themselves")
                if not found or found[-1][0] != key:
                    if key in seen:
                        raise ValueError(f"{path}, key {key}: its files do not lie next to each other")
                    seen.add(key)
                    found.append((key, {}))
                if extension in found[-1][1]:
                    raise ValueError(f"{path}, key {key}: two files end in .{extension}")
                found[-1][1][extension] = member
    except tarfile.TarError as error:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        advice = "it is compressed; unpack it with gunzip" if packed else str(error)
        raise ValueError(f"{path} is not a whole tar archive: {advice}") from error
    with path.open("rb") as file:
        file.seek(end)
        if not found or file.read(tarfile.BLOCKSIZE).strip(b"\0") or path.stat().st_size < end + tarfile.BLOCKSIZE:
            last = f"cut off behind key {found[-1][0]}" if found else "it holds no samples"
            raise ValueError(f"{path} is not a whole tar archive: {last}")
    return found


def _listed_classes(path: Path) -> tuple[str, ...]:
    """Names of classes, one a line."""
    if not path.is_file():
        raise FileNotFoundError(f"class_file={path}: no such file")
    names = [line.strip() for line in read_lines(path) if line.strip()]
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None or not names:
        raise ValueError(f"class_file={path} names {'no classes' if twice is None else f'{twice!r} twice'}")
    return tuple(names)


class ImageShards(SplitImages):
    """Images in tar archives, as webdataset writes them.

    The archives are listed once; then any image is read where it lies, so that every epoch sees all of them in a new
    order. A sample is an image (`KEY.jpg`, `KEY.png`, …) and a label: `KEY.cls` or `KEY.txt` with its number or name,
    or `KEY.json` with an entry for it.

    Args:
        train: Archives of the training part: `a.tar`, a folder, `a-*.tar`, or `a-{000..012}.tar`.
        val: Archives of the validation part; None for none, or see `val_fraction`.
        test: Archives of the test part.
        image_key: Extension of the images, for samples with several of them; by default any that an image has.
        label_key: Extension of the labels; by default "cls", "json" or "txt".
        label_field: Entry of a JSON label; by default "label", "labels", "class", "category" or the like.
        label_separator: What stands between the labels of a text, for example "|"; lists in JSON need none.
        class_file: Text file with the names of the classes, one a line, for labels that are numbers from 0.
        **kwargs: See `blockzoo.tasks.images.tables.SplitImages`.

    Raises:
        FileNotFoundError: An archive is missing.
        ValueError: An archive is cut off, or a sample has no image, no label, or an unknown one, or is a link; the
            message names the archive and the key.
    """

    def __init__(
        self,
        train: str,
        val: str | None = None,
        test: str | None = None,
        image_key: str | None = None,
        label_key: str | None = None,
        label_field: str | None = None,
        label_separator: str | None = None,
        class_file: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.shards = {part: name for part, name in (("train", train), ("val", val), ("test", test)) if name}
        self.image_key, self.label_key, self.label_field = image_key, label_key, label_field
        self.label_separator, self.class_file = label_separator, class_file

    def _parts(self) -> dict[str, Any]:
        listed = None if self.class_file is None else _listed_classes(Path(self.class_file))
        found: dict[str, Records] = {}
        for part, given in self.shards.items():
            names = listed if part == "train" else self.class_names
            found[part] = self._records(given, names)
        return self._held_out(found)

    def _records(self, given: str, names: tuple[str, ...] | None) -> Records:
        places: list[tuple[Path, str, int, int]] = []
        values: list[Any] = []
        for path in shard_files(given):
            with path.open("rb") as file:
                for key, members in _members(path):
                    image = self._image(path, key, members)
                    places.append((path, key, image.offset_data, image.size))
                    values.append(self._label(file, path, key, members))
        table = LabelTable(Path(given), {"label": values}, [f"{path}, key {key}" for path, key, _, _ in places])

        def place(row: int) -> str:
            return table.places[row]

        texts = several_labels(table, ["label"], self.label_separator)
        if self.class_file is not None and names is not None:
            known = dict.fromkeys(names)
            texts = [
                tuple(label if label in known else self._named(label, names, place(row)) for label in own)
                for row, own in enumerate(texts)
            ]
        self.class_names, labels = class_numbers(texts, place, names, self.multi_label)
        return _ShardRecords(places, labels, len(self.class_names) if self.multi_label else None)

    def _named(self, label: str, names: tuple[str, ...], place: str) -> str:
        """The class that a label means by its number."""
        if not label.isdecimal() or int(label) >= len(names):
            raise ValueError(f"{place}: {label!r} is no class of {self.class_file}, which names {len(names)}")
        return names[int(label)]

    def _image(self, path: Path, key: str, members: dict[str, tarfile.TarInfo]) -> tarfile.TarInfo:
        if self.image_key is not None:
            usable = [self.image_key] if self.image_key in members else []
        else:
            usable = [name for name in members if f".{name.rpartition('.')[2]}" in IMAGE_SUFFIXES]
        if len(usable) != 1:
            what = f"images {', '.join(usable)}; choose one by image_key" if usable else "no image"
            raise ValueError(f"{path}, key {key}: {what}; its files end in {', '.join(members)}")
        return members[usable[0]]

    def _label(self, file: Any, path: Path, key: str, members: dict[str, tarfile.TarInfo]) -> Any:
        wanted = (self.label_key,) if self.label_key is not None else _LABELS
        extension = next((name for name in wanted if name in members), None)
        if extension is None:
            raise ValueError(
                f"{path}, key {key}: no label ({', '.join(wanted)}); its files end in {', '.join(members)}"
            )
        member = members[extension]
        if member.size > _LARGEST_LABEL:
            raise ValueError(f"{path}, key {key}: a label of {member.size:,} bytes")
        file.seek(member.offset_data)
        try:
            text = file.read(member.size).decode("utf-8").strip()
            if not extension.endswith("json"):
                return text
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, key {key}: the label .{extension} cannot be read: {error}") from error
        if not isinstance(content, dict):
            return content
        fields = (self.label_field,) if self.label_field is not None else LABEL_COLUMNS
        name = next((field for field in fields if field in content), None)
        if name is None:
            raise ValueError(f"{path}, key {key}: no entry {fields[0]!r} in .{extension}; it has {', '.join(content)}")
        return content[name]

    @property
    def description(self) -> dict[str, str]:
        """See `ZooData.description`."""
        split = ", ".join(self.shards.values()) + self._words_of_split
        return {"dataset": self.shards["train"], "license": "unknown", "split": split}
