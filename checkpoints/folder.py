"""Replacing the files of a model's folder together, so that it never holds a mix of the old model and the new one.

Before the first file is replaced, the old files are kept in `.replacing` inside the folder; it is removed after the
last. While it exists, it holds the valid model: a reader during a write, or after a writer was killed, reads the old
model from it, and the next writer restores it first.
"""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

__all__ = ["replace_files", "whole_folder"]

_OLD = ".replacing"
_MARK = "old-files.txt"


def whole_folder(folder: Path) -> Path:
    """The folder to read a model's files from: itself, or its copy of the old files while they are being replaced."""
    return folder / _OLD if (folder / _OLD / _MARK).is_file() else folder


def replace_files(new: Path, folder: Path, names: Sequence[str]) -> None:
    """Move files into a folder over those of the same names. If anything fails, the folder stays as it was.

    Args:
        new: A folder in the same file system with all the files.
        folder: The folder that gets them.
        names: Names of the files; the one that marks the folder as a model comes last.
    """
    for name in names:
        _sync(new / name)
    if whole_folder(folder) != folder:  # an earlier writer was killed
        _put_back(folder, names)
    _keep_old(folder, names)
    try:
        for name in names:
            os.replace(new / name, folder / name)
        _sync(folder)
    except BaseException:
        _put_back(folder, names)
        raise
    _forget_old(folder)


def _keep_old(folder: Path, names: Sequence[str]) -> None:
    """Put the folder's present files under `.replacing`, all of them or none."""
    with tempfile.TemporaryDirectory(prefix=".keeping-", dir=folder) as held:
        kept = Path(held) / "old"
        kept.mkdir()
        for name in names:
            if (folder / name).is_file():
                _link(folder / name, kept / name)
        (kept / _MARK).write_text("The files of this model before it was saved again.\n", encoding="utf-8")
        _sync(kept / _MARK)
        os.rename(kept, folder / _OLD)
    _sync(folder)


def _put_back(folder: Path, names: Sequence[str]) -> None:
    """Restore the kept files, and remove other files of these names."""
    for name in names:
        kept = folder / _OLD / name
        if kept.is_file():
            again = kept.with_name(f"{name}.again")
            again.unlink(missing_ok=True)
            _link(kept, again)
            os.replace(again, folder / name)
            again.unlink(missing_ok=True)  # a rename between two links of one file does nothing
        else:
            (folder / name).unlink(missing_ok=True)
    _forget_old(folder)


def _forget_old(folder: Path) -> None:
    (folder / _OLD / _MARK).unlink()  # from here on the folder itself counts
    shutil.rmtree(folder / _OLD)


def _link(file: Path, other: Path) -> None:
    """A second name of a file; a copy where the file system has no links."""
    try:
        os.link(file, other)
    except OSError:
        shutil.copy2(file, other)


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
