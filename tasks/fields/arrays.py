"""Arrays by their names, from files of many formats, read whole and checked before memory is taken."""

import math
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from blockzoo.tasks.core.extras import needs
from blockzoo.tasks.core.stored import NO_CODE, check_unpacked, open_hdf5, read_dataset, read_npy, read_npz

__all__ = [
    "CONTAINERS", "FORMATS", "HDF5", "LABELLED", "NETCDF", "array_file", "dataset_names", "read_arrays", "tensor_of",
]  # fmt: skip

FORMATS = ".npz, .npy, .safetensors, .pt, .h5, .mat, .nc, .zarr, or a folder of .npy files"

HDF5, NETCDF = (".h5", ".hdf5", ".he5"), (".nc", ".nc4", ".cdf", ".netcdf")
"""Endings of the files of these formats."""

LABELLED = (*NETCDF, ".zarr")
"""Endings of files whose axes have names, see `blockzoo.tasks.fields.containers`."""

CONTAINERS = (*HDF5, *LABELLED)
"""Endings of files that can be read piece by piece."""

Found = tuple[dict[str, torch.Tensor], list[str]]
"""The wanted arrays that a file has, and the names of all that it has."""


def read_arrays(path: Path, wanted: Sequence[str]) -> Found:
    """The wanted arrays of a file; of what it holds, only arrays of numbers."""
    if not path.exists():
        raise FileNotFoundError(f"no file {path}; it must hold the arrays {' and '.join(wanted[:2])}, as {FORMATS}")
    if path.is_dir() and path.suffix.lower() != ".zarr":
        read: Callable[[Path, Sequence[str]], Found] | None = _from_folder
    else:
        read = _READERS.get(path.suffix.lower())
    if read is None:
        raise ValueError(f"{path} must end in {FORMATS}")
    try:
        return read(path, wanted)
    except ImportError:
        raise
    except Exception as error:  # a damaged file makes its library fail in any way
        text = str(error) or type(error).__name__
        if any(word in text for word in ("weights_only", "allow_pickle", "pickle")):
            text = NO_CODE
        kind = "a folder of .npy files" if read is _from_folder else path.suffix
        raise ValueError(f"{path} cannot be read as {kind}: {text}") from error


def tensor_of(array: np.ndarray) -> torch.Tensor:
    """An array of numbers of any byte order as a tensor."""
    if array.dtype.kind not in "biufc":
        raise TypeError(f"an array of {array.dtype} is not one of numbers")
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    if native.dtype.kind == "f" and native.dtype.itemsize > 8:
        native = native.astype(np.float64)  # long double, which torch has not
    if native.dtype.kind == "u" and native.dtype.itemsize > 1:
        native = native.astype(np.float64)
    return torch.from_numpy(np.ascontiguousarray(native).reshape(native.shape))


def _from_npz(path: Path, wanted: Sequence[str]) -> Found:
    found, names = read_npz(path, wanted)
    return {name: tensor_of(array) for name, array in found.items()}, names


def _from_npy(path: Path, wanted: Sequence[str]) -> Found:
    with path.open("rb") as file:
        return {wanted[0]: tensor_of(read_npy(file, path.name, path.stat().st_size))}, [wanted[0]]


def _from_folder(path: Path, wanted: Sequence[str]) -> Found:
    found: dict[str, torch.Tensor] = {}
    for name in wanted:
        if (path / f"{name}.npy").is_file():
            found |= {name: next(iter(_from_npy(path / f"{name}.npy", [name])[0].values()))}
    return found, [file.stem for file in path.glob("*.npy")]


def _from_safetensors(path: Path, wanted: Sequence[str]) -> Found:
    with safe_open(path, "pt") as file:
        names = list(file.keys())
        return {name: file.get_tensor(name) for name in wanted if name in names}, names


def _from_torch(path: Path, wanted: Sequence[str]) -> Found:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            check_unpacked("it", sum(entry.file_size for entry in archive.infolist()), path.stat().st_size)
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, not a dictionary of tensors")
    found = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    for name in (name for name in wanted if name in found):
        value = found[name]
        if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
            raise ValueError(f"{name} is not a dense tensor of plain numbers; store {name}.to_dense()")
        check_unpacked(name, value.numel() * value.element_size(), path.stat().st_size)
    return {name: found[name] for name in wanted if name in found}, list(found)


def array_file(path: str | Path) -> dict[str, torch.Tensor]:
    """All arrays of a file, by their names, see `FieldFiles` for the formats."""
    names = read_arrays(Path(path), ["x"])[1]
    return read_arrays(Path(path), names)[0]


def dataset_names(file: Any) -> list[str]:
    """Names of all arrays of an open HDF5 file, those in groups as "group/name"."""
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if hasattr(item, "dtype") else None)
    return names


def _from_hdf5(path: Path, wanted: Sequence[str], column_major: bool = False) -> Found:
    found: dict[str, torch.Tensor] = {}
    with open_hdf5(path) as file:
        names = dataset_names(file)
        for name in (name for name in wanted if name in names):
            values = read_dataset(file[name], name)
            found[name] = tensor_of(values.T if column_major else values)
    return found, names


def _from_mat(path: Path, wanted: Sequence[str]) -> Found:
    """MATLAB's format: since version 7.3 it is HDF5, with axes in the opposite order."""
    with path.open("rb") as file:
        if b"MATLAB 7.3 MAT-file" in file.read(128):
            return _from_hdf5(path, wanted, column_major=True)
    io = needs("scipy.io", "fields", str(path))
    try:
        held = {name: shape for name, shape, _ in io.whosmat(path)}
        for name in (name for name in wanted if name in held):
            check_unpacked(name, 8 * math.prod(held[name]), path.stat().st_size)
        content = io.loadmat(path, variable_names=list(wanted))
    except io.matlab.MatReadError as error:
        raise ValueError(str(error)) from error
    return {name: tensor_of(content[name]) for name in wanted if name in content}, list(held)


_READERS: dict[str, Callable[[Path, Sequence[str]], Found]] = {
    ".npz": _from_npz,
    ".npy": _from_npy,
    ".safetensors": _from_safetensors,
    **dict.fromkeys((".pt", ".pth"), _from_torch),
    **dict.fromkeys(HDF5, _from_hdf5),
    ".mat": _from_mat,
}
