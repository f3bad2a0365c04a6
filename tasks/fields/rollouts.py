"""Roll-outs for files of fields over time: predicted states, written in the container they came in."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from blockzoo.tasks.core.extras import needs
from blockzoo.tasks.core.files import check_output, replacing
from blockzoo.tasks.core.output import print_json, print_table
from blockzoo.tasks.fields.arrays import CONTAINERS, HDF5, NETCDF
from blockzoo.tasks.fields.containers import (
    CHANNEL,
    SAMPLE,
    TIME,
    FieldFile,
    Variable,
    open_fields,
    open_labelled,
)
from blockzoo.tasks.fields.learning import rollout, rollout_errors
from blockzoo.tasks.fields.trajectories import SelectedFile, Selection, assemble, fill_of, filled

__all__ = ["Horizon", "history_of", "predict_rollouts", "write_states"]


class Horizon(NamedTuple):
    """What is rolled out.

    Attributes:
        steps: States to predict.
        start: Instant of the first state that the model is given, counted in strides of time.
        samples: First samples only; None for all.
        history: States in an input; None to find it from the model's channels.
    """

    steps: int
    start: int = 0
    samples: int | None = None
    history: int | None = None


def history_of(model: Any, file: SelectedFile, given: int | None = None) -> int:
    """How many states a model takes, by its channels.

    Args:
        model: With `in_chans` and `out_chans`.
        file: What it is given.
        given: What the user says, which is checked.

    Raises:
        ValueError: No number of states fits the model.
    """
    state = len(file.names)
    more = len(file.constant_names) + (file.mask is not None)
    found, rest = divmod(model.in_chans - more, state)
    shown = f"{state} channels of state ({', '.join(file.names)})"
    shown += (
        f", {more} of constants and mask ({', '.join([*file.constant_names, *['mask'] * (file.mask is not None)])})"
    )
    if rest or found < 1 or model.out_chans % state:
        raise ValueError(
            f"{file.file.path} has {shown if more else shown.partition(', ' + str(more))[0]}; a model of "
            f"{model.in_chans} input and {model.out_chans} output channels fits none of its windows; "
            "see --fields, --constants and --mask"
        )
    if given is not None and given != found:
        raise ValueError(
            f"--history {given} does not fit the model, whose {model.in_chans} channels hold {found} states"
        )
    return found


@torch.no_grad()
def predict_rollouts(
    model: Any,
    path: str,
    horizon: Horizon,
    selection: Selection | None = None,
    axes: str | None = None,
    out: str | None = None,
    as_json: bool = False,
    batch_size: int = 8,
) -> int:
    """Roll a model out from the first states of every sample, write the states, and print errors where truth is known.

    Args:
        model: Of the task "operator", on the states of the file.
        path: See `blockzoo.tasks.fields.containers.open_fields`.
        horizon: From where and how far.
        selection: What of the file the model takes.
        axes: Names of the axes, see `open_fields`.
        out: Where states are written, in the format of the input; by default `NAME_predicted.SUFFIX` here.
        as_json: Print JSON.
        batch_size: Samples that are rolled out together.

    Returns:
        Exit status.

    Raises:
        ValueError: The file does not fit the model, or `out` cannot be written.
    """
    for name, value in (("steps", horizon.steps), ("samples", horizon.samples)):
        if value is not None and value < 1:
            raise ValueError(f"--{name} {value} must be at least 1")
    source = Path(path)
    target = Path(out or f"{source.stem}_predicted{source.suffix if source.suffix in CONTAINERS else '.npz'}")
    _check_target(source, target)
    check_output(target, (path,), folder=target.suffix.lower() == ".zarr")
    selection = selection or Selection()
    file = SelectedFile(open_fields(path, axes), selection)
    history = history_of(model, file, horizon.history)
    first = horizon.start + history
    if horizon.start < 0 or first > file.times:
        raise ValueError(
            f"--start {horizon.start} and {history} states must lie within the {file.times} instants of {path}"
        )
    count = min(file.file.samples, horizon.samples or file.file.samples)
    dims = len(model.n_modes)
    if dims != len(file.size):
        raise ValueError(
            f"{path} has {len(file.size)} axes of space ({', '.join(file.file.space)}), the model has {dims}"
        )
    truth_stop = min(file.times, first + horizon.steps)
    predicted, errors = [], []
    for begin in range(0, count, batch_size):
        some = range(begin, min(begin + batch_size, count))
        states, l2, scaled = _roll(model, file, some, horizon, history, truth_stop)
        predicted.append(states)
        errors.append(torch.stack([l2, scaled], -1))
    rolled = torch.cat(predicted).numpy()
    times = _times(file, first, horizon.steps)
    write_states(target, file, rolled, times)
    _report(file, times, torch.cat(errors), target, rolled.shape, history, as_json)
    return 0


def _roll(
    model: Any, file: SelectedFile, samples: Sequence[int], horizon: Horizon, history: int, truth_stop: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Predicted states (B, T, C, *size) of some samples, NaN outside the mask, and errors (B, known instants)."""
    chans = len(file.names)
    fill = fill_of(model.input_mean.cpu(), file, history)
    device, dtype = model.input_mean.device, model.input_mean.dtype
    inputs, truths = [], []
    for sample in samples:
        known = file.states(sample, horizon.start, truth_stop)
        known = filled(known, fill[:chans])
        inputs.append(assemble(known[:history], file.fixed(sample), file.mask, fill))
        truths.append(known[history:])
    mask = None if file.mask is None else file.mask.to(device)
    x = torch.stack(inputs).to(device, dtype)
    states = rollout(model, x, horizon.steps, chans, history, mask).float().cpu()
    truth = torch.stack(truths)
    l2, scaled = rollout_errors(states[:, : truth.shape[1]], truth, file.mask)
    if file.mask is not None:
        states = states.masked_fill(~file.mask, torch.nan)
    return states, l2, scaled


def _times(file: SelectedFile, first: int, steps: int) -> np.ndarray:
    """Values of the time axis at the predicted instants; beyond the file's end they go on in its last step."""
    stride = file.selection.time_stride
    known = file.file.coordinates.get(TIME)
    if known is None:
        return np.arange(first, first + steps) * stride
    known = known[::stride]
    beyond = first + steps - len(known)
    if beyond > 0 and len(known) > 1:
        step = known[-1] - known[-2]
        known = np.concatenate([known, known[-1] + step * np.arange(1, beyond + 1)])
    return known[first : first + steps]


def _report(
    file: SelectedFile,
    times: np.ndarray,
    errors: torch.Tensor,
    target: Path,
    shape: Sequence[int],
    history: int,
    as_json: bool,
) -> None:
    known = errors.nanmean(0).tolist() if errors.shape[1] else []
    rows = []
    for i, time in enumerate(times):
        l2, scaled = known[i] if i < len(known) else (None, None)
        rows.append({"step": i + 1, "time": str(time), "relative L2 error": _number(l2), "VRMSE": _number(scaled)})
    if as_json:
        about = {
            "file": str(target),
            "layout": file.file.layout,
            "axes": ["sample", "time", "channel", *file.file.space],
        }
        print_json({**about, "shape": list(shape), "channels": file.names, "history": history, "steps": rows})
        return
    names = list(rows[0]) if known else list(rows[0])[:2]
    print_table(names, [["" if row[name] is None else _cell(row[name]) for name in names] for row in rows])
    print(f"{file.file.layout}: {shape[0]} samples of {', '.join(file.names)}, from {history} state(s) each")
    print(f"predictions: {target}")


def _number(value: float | None) -> float | None:
    return None if value is None or value != value else float(value)


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _check_target(source: Path, target: Path) -> None:
    """Whether states of this file can be written to that one."""
    own = next((family for family in (HDF5, NETCDF, (".zarr",)) if source.suffix.lower() in family), (".npz",))
    if target.suffix.lower() not in own:
        raise ValueError(f"--out {target} must end in {' or '.join(own)}, as states are written in the input's format")
    if target.suffix.lower() == ".zarr" and target.exists():
        raise ValueError(f"--out {target} exists")
    if source.resolve() in target.resolve().parents:
        raise ValueError(f"--out {target} is inside the input {source}; give another place")


def write_states(target: Path, file: SelectedFile, states: np.ndarray, times: np.ndarray) -> None:
    """Write states in the layout of a file, with its coordinates.

    Args:
        target: The new file, of the same format.
        file: The file they were predicted from.
        states: (N, T, C, *size).
        times: Values of the time axis, (T,).
    """
    arrays, place = {}, 0
    for name in file.fields:
        variable = file.file.variable(name)
        count = len(variable.components)
        arrays[name] = _in_order(states[:, :, place : place + count], variable, file.file)
        place += count
    stride = file.selection.space_stride
    coordinates = {
        name: file.file.coordinates[name][::stride] for name in file.file.space if name in file.file.coordinates
    }
    coordinates[TIME] = times
    if target.suffix.lower() == ".zarr":
        _dataset(file.file, arrays, coordinates).to_zarr(target, consolidated=False)
    elif file.file.layout == "NetCDF":
        dataset = _dataset(file.file, arrays, coordinates)
        replacing(target, lambda place: dataset.to_netcdf(place, engine="h5netcdf"))
    elif target.suffix.lower() == ".npz":
        replacing(target, lambda place: np.savez(place, **arrays, **coordinates))  # type: ignore[arg-type]
    else:
        replacing(target, lambda place: _write_hdf5(place, file, arrays, coordinates))


def _in_order(states: np.ndarray, variable: Variable, file: FieldFile) -> np.ndarray:
    """States (N, T, C, *size) with the axes of a variable in their order; of axes it lacks, the first entry."""
    axes = [SAMPLE, TIME, CHANNEL, *file.space]
    values = states
    for axis in [name for name in axes if name not in variable.axes]:
        values = values.take(0, axis=axes.index(axis))
        axes.remove(axis)
    wanted = list(dict.fromkeys(variable.axes))
    values = np.ascontiguousarray(values.transpose([axes.index(axis) for axis in wanted]))
    tensor = [n for axis, n in zip(variable.axes, variable.shape, strict=True) if axis == CHANNEL]
    if len(tensor) == 2:
        values = values.reshape(*values.shape[:-1], *tensor)
    return values


def _dataset(file: FieldFile, arrays: Mapping[str, np.ndarray], coordinates: Mapping[str, np.ndarray]) -> Any:
    """An xarray data set with the names of dimensions and the attributes of a file."""
    xarray = needs("xarray", "fields", str(file.path))
    with open_labelled(file.path) as source:
        data, coords = {}, {}
        for name, values in arrays.items():
            dims = source[name].dims
            data[name] = (dims, values, source[name].attrs)
            for dim, axis in zip(dims, file.variable(name).axes, strict=True):
                if axis in coordinates and dim in source.coords:
                    coords[dim] = (dim, coordinates[axis], source.coords[dim].attrs)
        return xarray.Dataset(data, coords, source.attrs)


def _write_hdf5(
    target: Path, file: SelectedFile, arrays: Mapping[str, np.ndarray], coordinates: Mapping[str, np.ndarray]
) -> None:
    layout, space = file.file.layout, file.file.space
    h5py = needs("h5py", "fields", str(target))
    with h5py.File(target, "w") as new, h5py.File(file.file.path, "r") as old:
        if layout == "The Well":
            _write_well(new, old, arrays, coordinates, file.selection.space_stride > 1)
        elif layout == "PDEBench, a group for each sample":
            for name, values in zip(sorted(old), arrays["data"], strict=False):
                new[f"{name}/data"] = values
                for axis, points in coordinates.items():
                    new[f"{name}/grid/{'t' if axis == TIME else axis}"] = points
        else:
            for name, values in arrays.items():
                new[name] = values
            plain = {TIME: "t" if "t" in old else "t-coordinate", **{axis: f"{axis}-coordinate" for axis in space}}
            names = plain if layout == "PDEBench" else {axis: axis for axis in coordinates}
            for axis, points in coordinates.items():
                new[names[axis]] = points


def _write_well(
    new: Any, old: Any, arrays: Mapping[str, np.ndarray], coordinates: Mapping[str, np.ndarray], coarser: bool
) -> None:
    """The groups of the Well, with the attributes of the old file, and on the same grid its boundary conditions."""
    for key, value in old.attrs.items():
        new.attrs[key] = value
    new.attrs["n_trajectories"] = len(next(iter(arrays.values())))
    dimensions = new.create_group("dimensions")
    dimensions.attrs["spatial_dims"] = old["dimensions"].attrs["spatial_dims"]
    for name, points in coordinates.items():
        dimensions[name] = points
        dimensions[name].attrs["sample_varying"] = False
    for order in range(3):
        group = new.create_group(f"t{order}_fields")
        names = [name for name in arrays if name in old.get(f"t{order}_fields", {})]
        group.attrs["field_names"] = names
        for name in names:
            group[name] = arrays[name]
            for key, value in old[f"t{order}_fields/{name}"].attrs.items():
                group[name].attrs[key] = value
    if "boundary_conditions" in old and not coarser:
        old.copy("boundary_conditions", new)
