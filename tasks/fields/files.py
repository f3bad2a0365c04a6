"""Data module of a user's own files of fields."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import torch

from blockzoo.tasks.core.stored import check_unpacked
from blockzoo.tasks.fields.arrays import CONTAINERS, LABELLED, read_arrays, tensor_of
from blockzoo.tasks.fields.containers import CHANNEL, SAMPLE, TIME, open_fields
from blockzoo.tasks.fields.pairs import FieldData, FieldPairs

__all__ = ["Channels", "FieldFiles", "read_fields"]

Channels = Literal["auto", "first", "last", "none"]
"""Where the axis of channels stands, see `FieldFiles`."""

NAMES = ("x", "y", "trajectory")


class FieldFiles(FieldData):
    """Your own fields, from files that hold arrays by name.

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
        predict_path: File to predict, of which only `x` is read; by default, the first part for tests.
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
        ValueError: A file has another form, an array is missing, its shape does not fit the others, or a
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
        """Read and check the files, for every stage."""
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
        """Give fields (N, *size) an axis of channels, if the model shows that they have none.

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
        Those of `x`, `y` and `trajectory` that exist, in float32, with channels first.
    """
    stored = {name: (keys or {}).get(name, name) for name in NAMES}
    read = _labelled if Path(path).suffix.lower() in LABELLED else read_arrays
    arrays, held = read(Path(path), list(stored.values()))
    for name in needed:
        if stored[name] not in arrays:
            hint = "" if stored[name] != name or not held else f"; another name is given by {name}_key (--{name}-key)"
            if Path(path).suffix.lower() in CONTAINERS:
                hint += "; fields over time are read by FieldTrajectories, and rolled out by predict --steps"
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


def _labelled(path: Path, wanted: Sequence[str]) -> tuple[dict[str, torch.Tensor], list[str]]:
    """NetCDF and Zarr, whose axes have names; where there are no samples, instants are samples."""
    file = open_fields(path)
    parts = path.rglob("*") if path.is_dir() else (path,)
    stored = sum(part.stat().st_size for part in parts if part.is_file())
    found: dict[str, torch.Tensor] = {}
    for name in (name for name in wanted if name in file.variables):
        variable = file.variables[name]
        first = SAMPLE if SAMPLE in variable.axes else TIME
        order = [axis for axis in (first, CHANNEL, *file.space) if axis in variable.axes]
        rest = [axis for axis in variable.axes if axis not in order]
        if first not in order or rest:
            raise ValueError(
                f"{path}: {name} has the axes {', '.join(variable.axes)}; a pair of fields has (sample, "
                f"{', '.join(file.space)}), and FieldTrajectories reads fields over time"
            )
        check_unpacked(name, 8 * math.prod(variable.shape), stored)
        values = variable.read((slice(None),) * len(variable.axes))
        values = values.transpose([variable.axes.index(axis) for axis in order])
        found[name] = tensor_of(values if CHANNEL in order else values[:, None])
    return found, list(file.variables)
