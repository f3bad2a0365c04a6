"""Fields from files of one's own."""

import importlib
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any, Literal, get_args

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from blockzoo.tasks.fields.pairs import FieldData, FieldPairs

__all__ = ["FORMATS", "Channels", "FieldFiles", "array_file", "needs", "read_fields"]

Channels = Literal["auto", "first", "last", "none"]
"""Where the axis of channels stands, see `FieldFiles`."""

NAMES = ("x", "y", "trajectory")

FORMATS = ".npz, .npy, .safetensors, .pt, .h5, .mat, .nc, .zarr, or a folder of .npy files"

_BOMB, _SMALL = 200, 2**30
"""A file may unpack to 200 times its size, or to a gigabyte."""

_CODE = "it holds Python objects, which are never read since they can run code; store plain arrays of numbers"


class FieldFiles(FieldData):
    """Fields of one's own, from files that hold arrays by name.

    Formats are .npz, .safetensors, .pt of a dictionary of tensors, HDF5 (.h5, .hdf5; needs the extra `fields`), .mat
    (needs the extra `fields`), NetCDF (.nc) and Zarr (need the extra `fields`), and folders with a file `x.npy` and
    `y.npy`. A single .npy file is `x` alone, for prediction. Other names than `x` and `y` are given by `x_key` and
    `y_key`.

    Arrays are `x` (N, C, *size) and `y` (N, C', *size) on one grid. Files for tests may be on other grids, and may have
    `trajectory` (N, T, C', *size), the states that follow each `x`, whose first C' channels are the state they start
    from. Other orders of the axes are named by `channels`.

    Args:
        path: The training part.
        test_paths: Parts for tests.
        predict_path: What to predict, of which only `x` is read; by default the first part for tests.
        val_fraction: Share of the training part, its end, that is held out for validation.
        x_key: Name of the inputs in all files; within groups of HDF5, "group/name".
        y_key: Name of the targets in all files.
        channels: Where the axis of channels stands: "first", (N, C, *size); "last", (N, *size, C); or "none",
            (N, *size), as in neuraloperator's Darcy files. "auto" takes "first", and "none" for arrays that have one
            axis fewer than the others of the file, or than the model needs.
        batch_size: Samples in a batch, on each device.
        num_workers: Processes that prepare batches.

    Raises:
        FileNotFoundError: A file is missing.
        ImportError: The package that reads a format is missing.
        ValueError: A file cannot be read as it should be, an array is missing, its shape does not fit the others, or a
            value is not finite; the message names file, array and place.
    """

    def __init__(
        self,
        path: str,
        test_paths: list[str] | None = None,
        predict_path: str | None = None,
        val_fraction: float = 0.1,
        x_key: str = "x",
        y_key: str = "y",
        channels: Channels = "auto",
        batch_size: int = 32,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers)
        if not 0 <= val_fraction < 1:
            raise ValueError(f"val_fraction={val_fraction} must be in [0, 1)")
        if channels not in get_args(Channels):
            raise ValueError(f"channels={channels!r} must be one of {', '.join(map(repr, get_args(Channels)))}")
        if x_key == y_key:
            raise ValueError(f"x_key={x_key!r} and y_key={y_key!r} must differ")
        self.path, self.test_paths, self.predict_path = path, test_paths or [], predict_path
        self.val_fraction = val_fraction
        self.keys, self.layout = {"x": x_key, "y": y_key}, channels

    def setup(self, stage: str) -> None:
        """Read and check the files; the same whatever the stage."""
        if self.datasets:
            return
        arrays = self._read(self.path)
        count = len(arrays["x"])
        cut = count - round(self.val_fraction * count)
        if not cut:
            raise ValueError(
                f"{self.path} has {count} samples; val_fraction={self.val_fraction} leaves none to train on"
            )
        self.datasets = {"train": FieldPairs(x=arrays["x"][:cut], y=arrays["y"][:cut])}
        if cut < count:
            self.datasets["val"] = FieldPairs(x=arrays["x"][cut:], y=arrays["y"][cut:])
        self._set_tests([self._like_training(path, self._read(path)) for path in self.test_paths])
        if self.predict_path is not None:
            self.datasets["predict"] = self._like_training(self.predict_path, self._read(self.predict_path, ("x",)))

    def _read(self, path: str, needed: Sequence[str] = ("x", "y")) -> dict[str, torch.Tensor]:
        return read_fields(path, needed, self.keys, self.layout)

    def fit_axes(self, dims: int, in_chans: int) -> None:
        """Give fields (N, *size) an axis of channels where a model shows that they have none.

        Args:
            dims: Axes of space that the model maps.
            in_chans: Channels of its inputs.
        """
        x = self._first["x"]
        if self.layout == "auto" and in_chans == 1 and len(self.size) == dims - 1 and x.shape[1] != in_chans:
            for part in {id(part): part for part in (*self.datasets.values(), *self.test_sets)}.values():
                part.arrays = {  # type: ignore[attr-defined]
                    name: value.unsqueeze(2 if name == "trajectory" else 1)
                    for name, value in part.arrays.items()  # type: ignore[attr-defined]
                }

    def _like_training(self, path: str, arrays: dict[str, torch.Tensor]) -> FieldPairs:
        """A further part, if it has the channels and axes of the training part."""
        for name in ("x", "y"):
            ours, theirs = self._first[name], arrays.get(name)
            if theirs is not None and (theirs.shape[1] != ours.shape[1] or theirs.ndim != ours.ndim):
                raise ValueError(
                    f"{path}: {name} {tuple(theirs.shape)} must have the channels and axes of that in {self.path}, "
                    f"{tuple(ours.shape)}"
                )
        return FieldPairs(False, **arrays)

    @property
    def description(self) -> dict[str, str]:
        """See `ZooData.description`."""
        split = f"the last {self.val_fraction:.0%} of {Path(self.path).name} for validation"
        split += f"; tests on {', '.join(Path(path).name for path in self.test_paths)}" if self.test_paths else ""
        return {"dataset": Path(self.path).name, "license": "not known", "split": split}


def read_fields(
    path: str | Path,
    needed: Sequence[str] = ("x", "y"),
    keys: Mapping[str, str] | None = None,
    channels: Channels = "first",
) -> dict[str, torch.Tensor]:
    """Read and check the arrays of a file of fields, see `FieldFiles`.

    Args:
        path: The file, or the folder of .npy files.
        needed: Which of `x` and `y` it must hold.
        keys: Names in the file of `x` and `y`; these names themselves by default.
        channels: Where the axis of channels stands, see `FieldFiles`.

    Returns:
        `x`, `y` and `trajectory` as far as they are there, in float32, with channels first.
    """
    stored = {name: (keys or {}).get(name, name) for name in NAMES}
    arrays, held = _arrays(Path(path), list(stored.values()))
    for name in needed:
        if stored[name] not in arrays:
            hint = "" if stored[name] != name or not held else f"; another name is given by {name}_key"
            raise ValueError(
                f"{path} must hold the array {stored[name]}; it holds {', '.join(sorted(held)) or 'none'}{hint}"
            )
    known = {name: arrays[key] for name, key in stored.items() if key in arrays}
    ndims = {name: known[name].ndim for name in ("x", "y") if name in known}
    for name, array in known.items():
        known[name] = array = _in_float32(path, name, array)
        states = name == "trajectory"
        if channels == "last":
            array = array.movedim(-1, 2 if states else 1)
        elif channels == "none" or (channels == "auto" and not states and array.ndim == max(ndims.values()) - 1):
            array = array.unsqueeze(2 if states else 1)
        known[name] = array = array.contiguous()
        if array.ndim < (4 if states else 3) or 0 in array.shape:
            shape = "(N, T, C, *size)" if states else "(N, C, *size)"
            more = "" if 0 in array.shape else "; for fields (N, *size) say channels='none'"
            raise ValueError(f"{path}: {name} {tuple(array.shape)} must be {shape}, and not empty{more}")
    _check_together(path, known)
    return known


def _in_float32(path: str | Path, name: str, array: torch.Tensor) -> torch.Tensor:
    """The values in float32, if all of them are numbers that it has."""
    if array.is_complex():
        raise ValueError(f"{path}: {name} is {array.dtype}; give the real and the imaginary part as two channels")
    result = array.float()
    wrong = ~torch.isfinite(result)
    if wrong.any():
        index = [int(i) for i in wrong.nonzero()[0]]
        value = float(array[tuple(index)])
        reason = "all values must be finite"
        if math.isfinite(value):
            reason = f"which float32 does not reach (at most {torch.finfo(torch.float32).max:.3g}); rescale the fields"
        raise ValueError(f"{path}: {name}{index} is {value:g}{';' if reason[0] == 'a' else ','} {reason}")
    return result


def _check_together(path: str | Path, arrays: dict[str, torch.Tensor]) -> None:
    """Whether the arrays of a file have equal samples and grids."""
    if not {"x", "y"} <= set(arrays):
        return
    x, y = arrays["x"], arrays["y"]
    if len(x) != len(y) or x.shape[2:] != y.shape[2:]:
        raise ValueError(
            f"{path}: x {tuple(x.shape)} and y {tuple(y.shape)} must be (N, C, *size) with equal N and equal size"
        )
    states = arrays.get("trajectory")
    if states is not None and (len(states) != len(y) or states.shape[2:] != y.shape[1:] or x.shape[1] < y.shape[1]):
        raise ValueError(
            f"{path}: trajectory {tuple(states.shape)} must be {(len(y), 'T', *y.shape[1:])} as y, "
            f"and x {tuple(x.shape)} begin with the {y.shape[1]} channels of the state"
        )


Found = tuple[dict[str, torch.Tensor], list[str]]
"""The wanted arrays that a file has, and the names of all that it has."""


def _arrays(path: Path, wanted: Sequence[str]) -> Found:
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
    except (
        ValueError,
        TypeError,
        EOFError,
        OSError,
        KeyError,
        MemoryError,
        NotImplementedError,
        zipfile.BadZipFile,
        SafetensorError,
        UnpicklingError,
        RuntimeError,
    ) as error:
        text = str(error) or type(error).__name__
        if any(word in text for word in ("weights_only", "allow_pickle", "pickle")):
            text = _CODE
        kind = "a folder of .npy files" if read is _from_folder else path.suffix
        raise ValueError(f"{path} cannot be read as {kind}: {text}") from error


def _check_size(name: str, size: int, stored: int) -> None:
    """Refuse what takes far more memory than a file of its size can mean."""
    if size > max(_SMALL, _BOMB * stored):
        raise ValueError(
            f"{name} would unpack from {stored:,} to {size:,} bytes; if that is meant, store it without compression"
        )


def _tensor(array: np.ndarray) -> torch.Tensor:
    """An array of numbers of any byte order as a tensor."""
    if array.dtype.kind not in "biufc":
        raise TypeError(f"an array of {array.dtype} is not one of numbers")
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    if native.dtype.kind == "f" and native.dtype.itemsize > 8:
        native = native.astype(np.float64)  # long double, which torch has not
    if native.dtype.kind == "u" and native.dtype.itemsize > 1:
        native = native.astype(np.float64)
    return torch.from_numpy(np.ascontiguousarray(native).reshape(native.shape))


def _npy(file: IO[bytes], name: str, stored: int) -> torch.Tensor:
    """One array in NumPy's format, its header checked before memory is taken."""
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if dtype.hasobject:
        raise ValueError(_CODE)
    _check_size(name, math.prod(shape) * dtype.itemsize, stored)
    file.seek(0)
    return _tensor(np.lib.format.read_array(file, allow_pickle=False))


def _from_npz(path: Path, wanted: Sequence[str]) -> Found:
    found = {}
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        for name in (name for name in wanted if name in entries):
            entry = entries[name]
            _check_size(name, entry.file_size, entry.compress_size)
            with archive.open(entry) as file:
                found[name] = _npy(file, name, entry.file_size)
    return found, list(entries)


def _from_npy(path: Path, wanted: Sequence[str]) -> Found:
    with path.open("rb") as file:
        return {wanted[0]: _npy(file, path.name, path.stat().st_size)}, [wanted[0]]


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
            _check_size("it", sum(entry.file_size for entry in archive.infolist()), path.stat().st_size)
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, not a dictionary of tensors")
    found = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    for name in (name for name in wanted if name in found):
        _check_size(name, found[name].numel() * found[name].element_size(), path.stat().st_size)
    return {name: found[name] for name in wanted if name in found}, list(found)


def needs(package: str, path: Path) -> Any:
    """The package that reads a file.

    Raises:
        ImportError: It is not installed; the message says how it is.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f"{path} needs the package {package}: pip install 'blockzoo[fields]'") from error


def array_file(path: str | Path) -> dict[str, torch.Tensor]:
    """All arrays of a file, by their names, see `FieldFiles` for the formats."""
    names = _arrays(Path(path), ["x"])[1]
    return _arrays(Path(path), names)[0]


@contextmanager
def _hdf5(path: Path) -> Iterator[Any]:
    with needs("h5py", path).File(path, "r") as file:
        yield file


def _from_labelled(path: Path, wanted: Sequence[str]) -> Found:
    """NetCDF and Zarr, whose axes have names; where there are no samples, instants are samples."""
    from blockzoo.tasks.fields.containers import CHANNEL, SAMPLE, TIME, open_fields

    file = open_fields(path)
    found: dict[str, torch.Tensor] = {}
    for name in (name for name in wanted if name in file.variables):
        variable = file.variables[name]
        first = SAMPLE if SAMPLE in variable.axes else TIME
        order = [axis for axis in (first, CHANNEL, *file.space) if axis in variable.axes]
        rest = [axis for axis in variable.axes if axis not in order]
        if first not in order or rest:
            raise ValueError(
                f"{name} has the axes {', '.join(variable.axes)}; a pair of fields has (sample, "
                f"{', '.join(file.space)}), and FieldTrajectories reads fields over time"
            )
        values = variable.read((slice(None),) * len(variable.axes))
        values = values.transpose([variable.axes.index(axis) for axis in order])
        found[name] = _tensor(values if CHANNEL in order else values[:, None])
    return found, list(file.variables)


def _from_hdf5(path: Path, wanted: Sequence[str], column_major: bool = False) -> Found:
    found: dict[str, torch.Tensor] = {}
    names: list[str] = []
    with _hdf5(path) as file:
        file.visititems(lambda name, item: names.append(name) if hasattr(item, "dtype") else None)
        for name in (name for name in wanted if name in names):
            data = file[name]
            _check_size(name, math.prod(data.shape) * data.dtype.itemsize, data.id.get_storage_size())
            values = data[()]
            found[name] = _tensor(values.T if column_major else values)
    return found, names


def _from_mat(path: Path, wanted: Sequence[str]) -> Found:
    """MATLAB's format: since version 7.3 it is HDF5, with axes in the opposite order."""
    with path.open("rb") as file:
        if b"MATLAB 7.3 MAT-file" in file.read(128):
            return _from_hdf5(path, wanted, column_major=True)
    try:
        from scipy import io
    except ImportError as error:
        raise ImportError(f"{path} needs the package scipy: pip install 'blockzoo[fields]'") from error
    try:
        held = {name: shape for name, shape, _ in io.whosmat(path)}
        for name in (name for name in wanted if name in held):
            _check_size(name, 8 * math.prod(held[name]), path.stat().st_size)
        content = io.loadmat(path, variable_names=list(wanted))
    except io.matlab.MatReadError as error:
        raise ValueError(str(error)) from error
    return {name: _tensor(content[name]) for name in wanted if name in content}, list(held)


_READERS: dict[str, Callable[[Path, Sequence[str]], Found]] = {
    ".npz": _from_npz,
    ".npy": _from_npy,
    ".safetensors": _from_safetensors,
    **dict.fromkeys((".pt", ".pth"), _from_torch),
    **dict.fromkeys((".h5", ".hdf5", ".he5"), _from_hdf5),
    **dict.fromkeys((".nc", ".nc4", ".cdf", ".netcdf", ".zarr"), _from_labelled),
    ".mat": _from_mat,
}
