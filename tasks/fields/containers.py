"""Files of fields over time as other programs write them, with named axes, read piece by piece.

`open_fields` knows the layouts of PDEBench and of the Well (HDF5), NetCDF and Zarr by the names of their dimensions,
and any other file of arrays once its axes are named. Nothing but sizes and coordinates is read until a piece is asked
for, so that a file may be larger than memory.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blockzoo.tasks.core.extras import needs
from blockzoo.tasks.core.stored import open_hdf5
from blockzoo.tasks.fields.arrays import CONTAINERS, FORMATS, HDF5, array_file, dataset_names
from blockzoo.tasks.fields.zarr_codecs import check_codecs, has_summary

__all__ = ["FieldFile", "Variable", "open_fields", "open_labelled", "parse_axes"]

SAMPLE, TIME, CHANNEL = "sample", "time", "channel"

_ROLES = {
    SAMPLE: ("sample", "samples", "batch", "member", "ensemble", "realization", "number", "trajectory", "run"),
    TIME: ("time", "t", "step", "valid_time", "time_counter"),
    CHANNEL: ("channel", "channels", "component", "variable", "field"),
}
"""Names of dimensions in the wild, in lower case, by what they are."""

Read = Callable[[tuple[Any, ...]], np.ndarray]


@dataclass(frozen=True)
class Variable:
    """An array of a file, whose axes have names; values are read when a piece is asked for.

    Attributes:
        name: Name in the file.
        axes: Name of each axis: "sample", "time", "channel", or that of an axis of space.
        shape: Length of each axis.
        components: Names of its channels; the variable's own name without an axis of channels.
        read: Takes an index for each axis and gives the values.
    """

    name: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    components: tuple[str, ...]
    read: Read = field(repr=False)

    def length(self, axis: str) -> int | None:
        """Length of an axis; None if the variable has no such axis."""
        return self.shape[self.axes.index(axis)] if axis in self.axes else None

    def take(self, space: Sequence[str], size: Sequence[int], sample: int, times: slice, stride: int = 1) -> np.ndarray:
        """Values of one sample.

        Args:
            space: Axes of space of the result; those that the variable lacks are repeated.
            size: Points along each of them in the file.
            sample: Which sample.
            times: Which instants; a variable without time gives one.
            stride: Take every so manieth point along each axis of space.

        Returns:
            (T, C, *size) in float64 or float32, as stored.
        """
        index: list[Any] = []
        for name in self.axes:
            if name == SAMPLE:
                index.append(sample)
            elif name == TIME:
                index.append(times)
            else:
                index.append(slice(None) if name == CHANNEL else slice(None, None, stride))
        values = np.asarray(self.read(tuple(index)))
        left = [name for name in self.axes if name != SAMPLE]
        order = [name for name in (TIME, CHANNEL, *space) if name in left]
        several = [place for place, name in enumerate(left) if name == CHANNEL]
        if len(several) == 2:  # a tensor's two axes stand side by side
            values = values.reshape(*values.shape[: several[0]], -1, *values.shape[several[1] + 1 :])
            del left[several[1]]
        values = values.transpose([left.index(name) for name in order])
        shape, kept = [], iter(values.shape)
        for name in (TIME, CHANNEL, *space):
            shape.append(next(kept) if name in order else 1)
        wanted = [-(-n // stride) for n in size]
        return np.broadcast_to(values.reshape(shape), (*shape[:2], *wanted))


@dataclass
class FieldFile:
    """An open file of fields.

    Attributes:
        path: The file.
        layout: "PDEBench", "PDEBench, a group for each sample", "The Well", "NetCDF", "Zarr", or "arrays".
        variables: Its arrays by name, those that vary in time first.
        space: Names of the axes of space.
        size: Points along each of them.
        samples: Samples.
        times: Instants; 1 where nothing varies in time.
        coordinates: Values along axes, as far as the file has them, by the axis's name.
        periodic: Whether axes of space close, as far as the file says so.
    """

    path: Path
    layout: str
    variables: dict[str, Variable]
    space: tuple[str, ...]
    size: tuple[int, ...]
    samples: int
    times: int
    coordinates: dict[str, np.ndarray] = field(default_factory=dict)
    periodic: dict[str, bool] = field(default_factory=dict)

    @property
    def states(self) -> list[str]:
        """Names of the variables that vary in time."""
        return [name for name, variable in self.variables.items() if TIME in variable.axes]

    @property
    def constants(self) -> list[str]:
        """Names of the variables that do not."""
        return [name for name, variable in self.variables.items() if TIME not in variable.axes]

    def variable(self, name: str) -> Variable:
        """The variable of this name.

        Raises:
            ValueError: There is none; the message names those there are.
        """
        if name not in self.variables:
            raise ValueError(f"{self.path} has no variable {name!r}; it has {', '.join(self.variables)}")
        return self.variables[name]

    def take(self, names: Sequence[str], sample: int, times: slice, stride: int = 1) -> np.ndarray:
        """Several variables of one sample, one after the other along the channels.

        Args:
            names: Which variables.
            sample: Which sample.
            times: Which instants.
            stride: Take every so manieth point along each axis of space.

        Returns:
            (T, C, *size).
        """
        found = [self.variable(name).take(self.space, self.size, sample, times, stride) for name in names]
        return np.concatenate(found, 1)

    def components(self, names: Sequence[str]) -> list[str]:
        """Names of the channels that `take` gives."""
        return [part for name in names for part in self.variable(name).components]


def parse_axes(text: str | None) -> list[str] | dict[str, str]:
    """What `axes` says: names in the order of an array's axes, or other names for dimensions.

    Args:
        text: "sample,time,x,y", or "member=sample,step=time".

    Raises:
        ValueError: It is neither, or a name comes twice.
    """
    parts = [part.strip() for part in (text or "").split(",") if part.strip()]
    pairs = [part.partition("=") for part in parts]
    named = [bool(sign) for _, sign, _ in pairs]
    names = [after if sign else before for before, sign, after in pairs]
    if len(set(named)) > 1 or len(set(names)) < len(names) or not all(before for before, _, _ in pairs):
        raise ValueError(
            f"axes={text!r} must name the axes in their order, as sample,time,x,y, or rename dimensions, as "
            "member=sample"
        )
    return {before: after for before, _, after in pairs} if any(named) else names


def open_fields(path: str | Path, axes: str | None = None) -> FieldFile:
    """Open a file of fields over time.

    Args:
        path: .h5, .hdf5, .nc, .zarr, or a file of arrays, see `blockzoo.tasks.fields.files.FieldFiles`.
        axes: Names of the axes, where the file does not tell them; see `parse_axes`.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: The package that reads it is missing.
        ValueError: It cannot be read, or its axes are not known.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no file {path}")
    given, suffix = parse_axes(axes), path.suffix.lower()
    try:
        if suffix in HDF5:
            found = _hdf5(path, given)
        elif suffix in CONTAINERS:
            found = _labelled(path, given, "Zarr" if suffix == ".zarr" else "NetCDF")
        else:
            found = _plain(path, array_file(path), given)
    except (OSError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"{path} cannot be read as {suffix or FORMATS}: {str(error) or type(error).__name__}"
        ) from error
    return found


class _Opened:
    """A file that every process opens for itself, since handles do not survive a fork or a pickle."""

    def __init__(self, path: Path, opener: Callable[[Path], Any]) -> None:
        self.path, self.opener = path, opener
        self._handles: dict[int, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "opener": self.opener, "_handles": {}}

    def __call__(self) -> Any:
        if os.getpid() not in self._handles:
            self._handles[os.getpid()] = self.opener(self.path)
        return self._handles[os.getpid()]

    def values(self, place: Sequence[str], index: tuple[Any, ...]) -> np.ndarray:
        """A piece of the array at a place, given by the names of groups and array.

        Raises:
            ValueError: The piece is damaged; the message names file and array.
        """
        try:
            item = self()
            for name in place:
                item = item[name]
            return np.asarray(item[index])
        except Exception as error:  # a damaged piece makes its decoder fail in any way
            reason = str(error) or type(error).__name__
            raise ValueError(f"{self.path}: {'/'.join(place)} cannot be read: {reason}") from error


@dataclass(frozen=True)
class _Array:
    """Reads pieces of one array of a file."""

    opened: _Opened
    name: str

    def __call__(self, index: tuple[Any, ...]) -> np.ndarray:
        return self.opened.values((self.name,), index)


@dataclass(frozen=True)
class _Groups:
    """Reads pieces of the array that each group of a file holds, the first index choosing the group."""

    opened: _Opened
    groups: tuple[str, ...]
    name: str

    def __call__(self, index: tuple[Any, ...]) -> np.ndarray:
        return self.opened.values((self.groups[index[0]], self.name), index[1:])


@dataclass(frozen=True)
class _Values:
    """An array in memory."""

    values: np.ndarray

    def __call__(self, index: tuple[Any, ...]) -> np.ndarray:
        return self.values[index]


def _in_library(read: Callable[[], Any]) -> Any:
    """Call a library on a file; a damaged one makes it fail in any way, which becomes an `OSError`."""
    try:
        return read()
    except Exception as error:
        raise OSError(str(error) or type(error).__name__) from error


def open_labelled(path: Path) -> Any:
    """Open NetCDF or Zarr by xarray, nothing of it read yet."""
    xarray = needs("xarray", "fields", str(path))
    if path.suffix.lower() == ".zarr":
        check_codecs(path)
        needs("zarr", "fields", str(path))
        # Stores may lack the summary of their metadata, which xarray would look for first and warn about.
        return _in_library(lambda: xarray.open_zarr(path, chunks=None, consolidated=has_summary(path)))
    with path.open("rb") as file:
        engine = "h5netcdf" if file.read(4) == b"\x89HDF" else "scipy"  # NetCDF 4, or one of the classic formats
    needs(engine, "fields", str(path))
    if engine == "h5netcdf":
        open_hdf5(path).close()  # which refuses values from other files
    return _in_library(lambda: xarray.open_dataset(path, engine=engine))


def _hdf5(path: Path, given: list[str] | dict[str, str]) -> FieldFile:
    opened = _Opened(path, open_hdf5)
    file = opened()
    if given:
        return _named(path, {name: (file[name].shape, _Array(opened, name)) for name in dataset_names(file)}, given)
    if "n_spatial_dims" in file.attrs and any(f"t{order}_fields" in file for order in range(3)):
        return _well(path, opened)
    if len(file) and all(name.isdigit() and hasattr(item, "keys") and "data" in item for name, item in file.items()):
        return _pdebench_groups(path, opened)
    if any(f"{name}-coordinate" in file for name in "xt") or {"velocity", "t"} <= set(file):
        return _pdebench(path, opened)
    found = {name: (item.shape, _Array(opened, name)) for name, item in file.items() if hasattr(item, "dtype")}
    return _named(path, found, given)


def _pdebench(path: Path, opened: _Opened) -> FieldFile:
    """One array for each field, (N, T, *size), and coordinates "x-coordinate", ..; some have channels and no space."""
    file = opened()
    items = {name: item for name, item in file.items() if hasattr(item, "dtype") and item.ndim > 1}
    arrays = {name: item for name, item in items.items() if name != "t" and not name.endswith("-coordinate")}
    space = tuple(name for name in "xyz" if f"{name}-coordinate" in file)
    channels: tuple[str, ...] = ()
    if "velocity" in file:  # (N, T, X, Y, D), and no coordinates of space
        space, channels = tuple("xyz"[: file["velocity"].ndim - 3]), (CHANNEL,)
    forms = {
        len(form): form for form in ((SAMPLE, *space, *channels), (SAMPLE, TIME, *space, *channels)) if len(form) > 1
    }
    wrong = [f"{name} {item.shape}" for name, item in arrays.items() if item.ndim not in forms]
    if wrong or not arrays:
        raise ValueError(
            f"{path}: {', '.join(wrong) or 'no array'} cannot be (sample, time, {', '.join(space)}) of PDEBench; "
            "name the axes"
        )
    coordinates = {axis: file[f"{axis}-coordinate"][()] for axis in "xyz" if f"{axis}-coordinate" in file}
    instants = next((file[name] for name in ("t-coordinate", "t") if name in file), None)
    if instants is not None:
        values = instants[()]
        coordinates[TIME] = values[0] if values.ndim > 1 else values
    variables = {name: (forms[item.ndim], item.shape, _Array(opened, name)) for name, item in arrays.items()}
    return _field_file(path, "PDEBench", variables, space, coordinates)


def _pdebench_groups(path: Path, opened: _Opened) -> FieldFile:
    """A group for each sample, "0000", .., whose "data" is (T, *size, C)."""
    file = opened()
    groups = tuple(sorted(file))
    first = file[groups[0]]
    shape = first["data"].shape
    for name in groups:
        if file[name]["data"].shape != shape:
            raise ValueError(f"{path}: {name}/data {file[name]['data'].shape} must be {shape} as in {groups[0]}")
    space = tuple("xyz"[: len(shape) - 2])
    coordinates = {}
    if "grid" in first:
        names = {axis: TIME if axis == "t" else axis for axis in first["grid"]}
        coordinates = {name: first["grid"][axis][()] for axis, name in names.items()}
    axes = (SAMPLE, TIME, *space, CHANNEL)
    variables = {"data": (axes, (len(groups), *shape), _Groups(opened, groups, "data"))}
    return _field_file(path, "PDEBench, a group for each sample", variables, space, coordinates)


def _well(path: Path, opened: _Opened) -> FieldFile:
    """The Well: groups of scalar, vector and tensor fields, whose attributes say what they vary with."""
    file = opened()
    dimensions = file["dimensions"]
    space = tuple(_text(name) for name in dimensions.attrs["spatial_dims"])
    coordinates = {name: dimensions[name][()] for name in space if name in dimensions}
    if "time" in dimensions:
        values = dimensions["time"][()]
        coordinates[TIME] = values[0] if values.ndim > 1 else values
    variables: dict[str, tuple[tuple[str, ...], tuple[int, ...], Read]] = {}
    components: dict[str, tuple[str, ...]] = {}
    for order in range(3):
        group = file.get(f"t{order}_fields")
        for name in [] if group is None else [_text(name) for name in group.attrs.get("field_names", list(group))]:
            item = group[name]
            varying = item.attrs.get("dim_varying", [True] * len(space))
            axes = [SAMPLE] * bool(item.attrs.get("sample_varying", True))
            axes += [TIME] * bool(item.attrs.get("time_varying", True))
            axes += [axis for axis, varies in zip(space, varying, strict=True) if varies]
            axes += [CHANNEL] * (item.ndim - len(axes))
            variables[name] = (tuple(axes), item.shape, _Array(opened, f"t{order}_fields/{name}"))
            parts = ["".join(pair) for pair in _pairs(space, order)]
            components[name] = tuple(f"{name}_{part}" for part in parts) if order else (name,)
    periodic: dict[str, bool] = {}
    for name, condition in file.get("boundary_conditions", {}).items():
        closes = _text(condition.attrs.get("bc_type", "")).lower() == "periodic"
        for axis in condition.attrs.get("associated_dims", []):
            periodic[_text(axis)] = closes or periodic.get(_text(axis), False)  # walls may stand inside a closed axis
        mask = condition.get("mask")
        dims = tuple(_text(axis) for axis in condition.attrs.get("associated_dims", []))
        if mask is not None and mask.ndim == len(dims) == len(space):
            place = f"boundary_conditions/{name}/mask"
            variables[place] = (dims, mask.shape, _Array(opened, place))
    found = _field_file(path, "The Well", variables, space, coordinates, components)
    found.periodic = periodic
    return found


def _pairs(space: Sequence[str], order: int) -> list[tuple[str, ...]]:
    """Components of a field of this order, in the order of memory."""
    if order < 2:
        return [(axis,) for axis in space]
    return [(one, other) for one in space for other in space]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _labelled(path: Path, given: list[str] | dict[str, str], layout: str) -> FieldFile:
    """NetCDF and Zarr, whose dimensions have names."""
    opened = _Opened(path, open_labelled)
    dataset = opened()
    variables: dict[str, Any] = {}
    space: list[Any] = []
    for name, item in sorted(dataset.data_vars.items()):  # stores list them in any order
        if item.dtype.kind not in "biuf" or item.ndim == 0 or name.endswith(("_bnds", "_bounds")):
            continue
        dims = [str(dim) for dim in item.dims]
        if isinstance(given, list) and given:
            if len(given) != len(dims):
                continue
            roles = given
        else:
            roles = [_role(dim, dataset, given) for dim in dims]  # type: ignore[arg-type]
        space += [role for role in roles if role not in (SAMPLE, TIME, CHANNEL, *space)]
        variables[str(name)] = (tuple(roles), tuple(item.shape), _Array(opened, str(name)))
    if not variables:
        raise ValueError(
            f"{path} holds no array of numbers with these axes; it has {', '.join(map(str, dataset)) or 'none'}"
        )
    # Arrays without the axes of space that the others have, such as a series of global means, are no fields.
    whole = max(len(set(axes) & set(space)) for axes, _, _ in variables.values())
    fields = {name: found for name, found in variables.items() if len(set(found[0]) & set(space)) == whole}
    space = [axis for axis in space if any(axis in axes for axes, _, _ in fields.values())]
    coordinates = {}
    for dim in dataset.dims:
        role = str(dim) if isinstance(given, list) else _role(str(dim), dataset, given)
        if dim in dataset.coords and dataset.coords[dim].ndim == 1:
            coordinates[role] = dataset.coords[dim].values
    return _field_file(path, layout, fields, tuple(space), coordinates)


def _role(dim: str, dataset: Any, given: dict[str, str] | list[str]) -> str:
    """What a dimension is, by the user's word, by its coordinate, or by its name; space keeps its own names."""
    if isinstance(given, dict) and dim in given:
        return given[dim]
    coordinate = dataset.coords.get(dim)
    if coordinate is not None:
        about = coordinate.attrs
        if about.get("axis") == "T" or about.get("standard_name") == "time" or coordinate.dtype.kind == "M":
            return TIME
    return next((role for role, names in _ROLES.items() if dim.lower() in names), dim)


def _plain(path: Path, arrays: Mapping[str, torch.Tensor], given: list[str] | dict[str, str]) -> FieldFile:
    """Arrays in memory, whose axes the user names."""
    return _named(path, {name: (tuple(t.shape), _Values(t.numpy())) for name, t in arrays.items()}, given)


def _named(
    path: Path, arrays: Mapping[str, tuple[tuple[int, ...], Read]], given: list[str] | dict[str, str]
) -> FieldFile:
    """Arrays by their names, whose axes the user has named; those without time have one axis fewer."""
    shown = ", ".join(f"{name} {tuple(shape)}" for name, (shape, _) in arrays.items()) or "no array"
    if not isinstance(given, list) or not given:
        raise ValueError(
            f"{path} does not say what its axes are; name them in their order, e.g. axes=sample,time,x,y. It has "
            f"{shown}"
        )
    static = [name for name in given if name != TIME]
    forms = {len(static): static, len(given): given}
    variables = {
        name: (tuple(forms[len(shape)]), tuple(shape), read)
        for name, (shape, read) in arrays.items()
        if len(shape) in forms
    }
    if not any(len(axes) == len(given) for axes, _, _ in variables.values()):
        raise ValueError(f"{path}: no array has the {len(given)} axes {','.join(given)}; it has {shown}")
    space = tuple(name for name in given if name not in (SAMPLE, TIME, CHANNEL))
    coordinates = {
        name: np.asarray(read((slice(None),)))
        for name, (shape, read) in arrays.items()
        if len(shape) == 1 and name in (*space, TIME)
    }
    return _field_file(path, "arrays", variables, space, coordinates)


def _field_file(
    path: Path,
    layout: str,
    arrays: Mapping[str, tuple[tuple[str, ...], tuple[int, ...], Read]],
    space: tuple[str, ...],
    coordinates: Mapping[str, np.ndarray],
    components: Mapping[str, tuple[str, ...]] | None = None,
) -> FieldFile:
    """Check that arrays have equal axes, and put together what is known."""
    variables = {}
    for name, (axes, shape, read) in arrays.items():
        channels = int(np.prod([n for axis, n in zip(axes, shape, strict=True) if axis == CHANNEL], dtype=int))
        parts = tuple(f"{name}_{i}" for i in range(channels)) if CHANNEL in axes and channels > 1 else (name,)
        variables[name] = Variable(name, axes, shape, (components or {}).get(name, parts), read)
    lengths: dict[str, int] = {}
    for variable in variables.values():
        for axis, n in zip(variable.axes, variable.shape, strict=True):
            if axis != CHANNEL and lengths.setdefault(axis, n) != n:
                raise ValueError(
                    f"{path}: {variable.name} {variable.shape} has {n} along {axis}, the others {lengths[axis]}"
                )
    empty = [axis for axis, n in lengths.items() if n == 0]
    if empty or not space:
        raise ValueError(f"{path}: {'axis ' + empty[0] + ' is empty' if empty else 'no axis of space'}")
    ordered = dict(sorted(variables.items(), key=lambda item: TIME not in item[1].axes))
    times = lengths.get(TIME, 1)
    known = {axis: values[: lengths[axis]] for axis, values in coordinates.items() if axis in lengths}
    return FieldFile(
        path, layout, ordered, space, tuple(lengths[axis] for axis in space), lengths.get(SAMPLE, 1), times, known
    )
