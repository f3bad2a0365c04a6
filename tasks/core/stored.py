"""Arrays in files of one's own: read without running code or taking far more memory than the file."""

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from blockzoo.tasks.core.extras import needs

__all__ = ["NO_CODE", "check_unpacked", "open_hdf5", "read_dataset", "read_npy", "read_npz"]

_BOMB, _SMALL = 200, 2**30
"""A file may unpack to 200 times its size, or to a gigabyte."""

NO_CODE = "it holds Python objects, which are never read since they can run code; store plain arrays of numbers"


def check_unpacked(name: str, size: int, stored: int) -> None:
    """Refuse what takes far more memory than a file of its size can mean.

    Args:
        name: What messages call it.
        size: Bytes that it takes in memory.
        stored: Bytes that it takes in the file.

    Raises:
        ValueError: It would unpack to more than 200 times its size, and to more than a gigabyte.
    """
    if size > max(_SMALL, _BOMB * stored):
        raise ValueError(
            f"{name} would unpack from {stored:,} to {size:,} bytes; if that is meant, store it without compression"
        )


def read_npy(file: IO[bytes], name: str, stored: int) -> np.ndarray:
    """One array in NumPy's format, its header checked before memory is taken.

    Args:
        file: A file that can go back to its beginning.
        name: What messages call the array.
        stored: Bytes that it takes in the file.

    Raises:
        ValueError: It is no array, holds Python objects, or see `check_unpacked`.
    """
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if dtype.hasobject:
        raise ValueError(NO_CODE)
    check_unpacked(name, math.prod(shape) * dtype.itemsize, stored)
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def read_npz(path: str | Path, wanted: Sequence[str] | None = None) -> tuple[dict[str, np.ndarray], list[str]]:
    """Arrays of an `.npz` file.

    Args:
        path: The file.
        wanted: Names of the arrays to read, as far as they are there; all by default.

    Returns:
        The arrays by name, and the names of all.

    Raises:
        ValueError: An array holds Python objects, or see `check_unpacked`.
        zipfile.BadZipFile: The file is none, or is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        listed = [entry for entry in archive.infolist() if entry.filename.endswith(".npy")]
        entries = {entry.filename.removesuffix(".npy"): entry for entry in listed}
        chosen = list(entries) if wanted is None else [name for name in wanted if name in entries]
        for name in chosen:
            check_unpacked(name, entries[name].file_size, entries[name].compress_size)
        check_unpacked("it", sum(entries[name].file_size for name in chosen), Path(path).stat().st_size)
        found = {}
        for name in chosen:
            with archive.open(entries[name]) as file:
                found[name] = read_npy(file, name, entries[name].file_size)
    return found, list(entries)


def open_hdf5(path: str | Path, extra: str = "fields") -> Any:
    """Open an HDF5 file that holds all its values itself.

    HDF5 can take values from other files: by external links, external storage and virtual datasets. Such a file could
    read any file of this machine, and where the other file is missing, its values are 0 without a word.

    Args:
        path: The file.
        extra: The extra of blockzoo that the message names if h5py is missing.

    Raises:
        MissingPackageError: h5py is not installed.
        OSError: It is not HDF5, or values are in another file, which the message names.
    """
    h5py = needs("h5py", extra, str(path))
    file = h5py.File(path, "r")
    elsewhere: dict[str, str] = {}

    def note_link(name: str, link: Any) -> None:
        if isinstance(link, h5py.ExternalLink):
            elsewhere[name] = link.filename

    def note_storage(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            sources = [source.file_name for source in item.virtual_sources()] if item.is_virtual else []
            for other in (*(external[0] for external in item.external or ()), *sources):
                if other != ".":  # the file itself
                    elsewhere[name] = other

    file.visititems_links(note_link)
    file.visititems(note_storage)
    if elsewhere:
        file.close()
        name, other = next(iter(elsewhere.items()))
        raise OSError(f"{name} takes its values from another file, {other}; copy them into this one")
    return file


def read_dataset(data: Any, name: str) -> Any:
    """The values of a data set of HDF5.

    Args:
        data: h5py's `Dataset`, of a file that `open_hdf5` opened.
        name: What messages call it.

    Raises:
        ValueError: See `check_unpacked`.
    """
    check_unpacked(name, data.size * data.dtype.itemsize, data.id.get_storage_size())
    return data[()]
