"""Data files in folders by class, and the error for files that cannot be read."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

__all__ = [
    "UnreadableFileError",
    "class_folders",
    "content_digest",
    "data_files",
    "is_junk",
    "part_folders",
    "stat_digest",
]


class UnreadableFileError(ValueError):
    """A data file cannot be read; the message is one line that names it.

    When a loader's worker fails, torch raises the error again with the worker's whole traceback as message. Only its
    last line, the original message, is kept.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition("UnreadableFileError: ")[2].strip())


def is_junk(path: Path) -> bool:
    """Whether a relative path is hidden, was left by an archive program, or is in such a folder."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def class_folders(
    root: str | Path, kind: str, suffixes: tuple[str, ...], class_names: tuple[str, ...] | None = None
) -> tuple[tuple[str, ...], list[tuple[Path, int]]]:
    """List the files of a folder `root/CLASS/**/FILE`.

    Hidden files and folders (`.ipynb_checkpoints`, `._x.png`), remains of archive programs (`__MACOSX`), and files with
    other endings are left out.

    Args:
        root: The folder.
        kind: What the files are, for messages, for example "image".
        suffixes: Endings of the files that count, in lower case.
        class_names: The classes that the folder must have; by default those that it has.

    Returns:
        Sorted names of the classes, and each file with the index of its class.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: There are no classes, other classes than `class_names`, or a class without files; the message names
            it.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is missing; expected {root}/CLASS/{kind.upper()}")
    names = tuple(sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not is_junk(Path(entry.name))))
    if not names:
        raise ValueError(f"{root} has no folders of classes; expected {root}/CLASS/{kind.upper()}")
    if class_names is not None and names != class_names:
        different = ", ".join(sorted(set(names) ^ set(class_names)))
        raise ValueError(f"{root} and the training part differ in the classes {different}")
    found: list[tuple[Path, int]] = []
    for label, name in enumerate(names):
        inside = [(path, label) for path in data_files(root / name, suffixes)]
        if not inside:
            raise ValueError(
                f"{root / name} has no {kind}s ({', '.join(suffixes)}); fill this class's folder or remove it"
            )
        found += inside
    return names, found


def part_folders(
    root: Path, kind: str, suffixes: tuple[str, ...]
) -> tuple[tuple[str, ...], dict[str, list[tuple[Path, int]]]]:
    """List the files of `root/train`, `root/val` and, where there is one, `root/test`, see `class_folders`.

    Args:
        root: The folder.
        kind: What the files are, for messages.
        suffixes: Endings of the files that count, in lower case.

    Returns:
        Sorted names of the classes, and each part's files with the index of their class.

    Raises:
        FileNotFoundError: A folder is missing.
        ValueError: See `class_folders`.
    """
    names: tuple[str, ...] | None = None
    parts = {}
    for part in ("train", "val", "test"):
        folder = root / part
        if not folder.is_dir():
            if part == "test":
                continue
            raise FileNotFoundError(f"{folder} is missing; expected {root}/{part}/CLASS/{kind.upper()}")
        names, parts[part] = class_folders(folder, kind, suffixes, names)
    assert names is not None
    return names, parts


def data_files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """All files below a folder that end so, except junk, in order; links to folders are followed.

    Args:
        folder: The folder.
        suffixes: Endings of the files, in lower case.

    Raises:
        ValueError: A link leads to a folder that it is in; its files would come again and again.
    """
    found = []
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not is_junk(Path(name)))
        for name in folders:
            link = Path(place) / name
            above = (Path(place), *Path(place).parents) if link.is_symlink() else ()
            if any(parent.resolve().is_relative_to(link.resolve()) for parent in above):
                raise ValueError(f"{link} is a link to a folder that it is in, {link.resolve()}; remove it")
        found += [Path(place) / name for name in sorted(files) if not is_junk(Path(name))]
    return [path for path in found if path.suffix.lower() in suffixes]


def stat_digest(files: Iterable[tuple[Path, int]]) -> str:
    """SHA-256 of names, labels, sizes and modification times: equal if no file was changed."""
    digest = hashlib.sha256()
    for path, label in files:
        about = path.stat()
        digest.update(f"{path}\0{label}\0{about.st_size}\0{about.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def content_digest(files: Iterable[tuple[Path, int]]) -> str:
    """SHA-256 of labels and contents, in order: equal for the same files anywhere."""
    digest = hashlib.sha256()
    for path, label in files:
        digest.update(f"{path.stat().st_size}:{label}:".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
