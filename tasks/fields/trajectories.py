"""Fields over time from files of one's own, read piece by piece: windows to train on, whole trajectories to test on."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch.utils.data import Dataset

from blockzoo.tasks.fields.arrays import CONTAINERS
from blockzoo.tasks.fields.containers import FieldFile, open_fields
from blockzoo.tasks.fields.pairs import FieldData

__all__ = ["FieldTrajectories", "Marks", "Selection", "TrajectoryPart"]

Marks = Literal["valid", "invalid"]
"""What the non-zero entries of a mask mean."""

_ENDINGS = (*CONTAINERS, ".npz", ".pt", ".mat", ".safetensors")
"""Endings of the files of a folder that are read."""

_BLOCK = 32
"""Instants that are read together for statistics."""


class Selection(NamedTuple):
    """What is taken of a file.

    Attributes:
        fields: Variables of the state; None for all that vary in time.
        constants: Variables that are inputs besides; None for all that do not vary in time, except the mask.
        mask: Variable that says where the domain is, "nan" where the values themselves say so, or None.
        mask_marks: What its non-zero entries mark.
        time_stride: Take every so manieth instant.
        space_stride: Take every so manieth point along each axis.
    """

    fields: Sequence[str] | None = None
    constants: Sequence[str] | None = None
    mask: str | None = None
    mask_marks: Marks = "valid"
    time_stride: int = 1
    space_stride: int = 1


class SelectedFile:
    """A file and what is taken of it.

    Args:
        file: The file.
        selection: What is taken.

    Raises:
        ValueError: A variable is missing, or none varies in time.
    """

    def __init__(self, file: FieldFile, selection: Selection) -> None:
        self.file, self.selection = file, selection
        self.fields = list(file.states if selection.fields is None else selection.fields)
        masks = [name for name in file.constants if name == selection.mask or name.endswith("/mask")]
        others = [name for name in file.constants if name not in masks]
        self.constants = others if selection.constants is None else list(selection.constants)
        for name in (*self.fields, *self.constants):
            file.variable(name)
        wrong = [name for name in self.fields if name not in file.states]
        if wrong or not self.fields:
            shown = wrong[0] if wrong else "none of them"
            raise ValueError(f"{file.path}: {shown} varies in time; the variables are {', '.join(file.variables)}")
        wrong = [name for name in self.constants if name in file.states]
        if wrong:
            raise ValueError(f"{file.path}: {wrong[0]} varies in time and is no constant; name it in fields")
        self.names = file.components(self.fields)
        self.constant_names = file.components(self.constants)
        self.times = -(-file.times // selection.time_stride)
        self.size = tuple(-(-n // selection.space_stride) for n in file.size)
        self.mask = self._mask()

    @property
    def vectors(self) -> dict[str, list[int]]:
        """Places of the components of vector fields among the channels of the state, by the field's name."""
        found, place = {}, 0
        for name in self.fields:
            count = len(self.file.variable(name).components)
            if count == len(self.file.space) > 1:
                found[name] = list(range(place, place + count))
            place += count
        return found

    def _mask(self) -> torch.Tensor | None:
        """Where the domain is, (1, *size), or None for everywhere."""
        name, stride = self.selection.mask, self.selection.space_stride
        if name is None:
            return None
        if name == "nan":
            values = self.file.take(self.fields, 0, slice(0, 1), stride)[0]
            if self.constants:
                values = np.concatenate([values, self.file.take(self.constants, 0, slice(0, 1), stride)[0]])
            inside = np.isfinite(values).all(0, keepdims=True)
        else:
            variable = self.file.variable(name)
            found = variable.take(self.file.space, self.file.size, 0, slice(0, 1), stride)[0]
            inside = (np.nan_to_num(found) != 0).any(0, keepdims=True)
            if self.selection.mask_marks == "invalid":
                inside = ~inside
        if not inside.any():
            raise ValueError(f"{self.file.path}: the mask {name!r} leaves no point; see mask_marks")
        return torch.from_numpy(inside)

    def states(self, sample: int, start: int, stop: int) -> torch.Tensor:
        """The state at instants start .. stop - 1, in strides: (T, C, *size) in float32, NaN outside the mask."""
        stride = self.selection.time_stride
        times = slice(start * stride, (stop - 1) * stride + 1, stride)
        values = self.file.take(self.fields, sample, times, self.selection.space_stride)
        return self._checked(values, self.names, sample, start)

    def fixed(self, sample: int) -> torch.Tensor | None:
        """The constants of a sample, (K, *size) in float32, or None."""
        if not self.constants:
            return None
        values = self.file.take(self.constants, sample, slice(0, 1), self.selection.space_stride)
        return self._checked(values, self.constant_names, sample, 0)[0]

    def _checked(self, values: np.ndarray, names: Sequence[str], sample: int, start: int) -> torch.Tensor:
        if values.dtype.kind == "c":
            raise ValueError(f"{self.file.path}: {names[0]} is complex; give its two parts as two variables")
        with np.errstate(over="ignore"):
            found = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
        wrong = ~torch.isfinite(found)
        if self.mask is not None:
            wrong &= self.mask
        if wrong.any():
            at = tuple(int(i) for i in wrong.nonzero()[0])
            time, chan, *place = at
            raise ValueError(
                f"{self.file.path}: {names[chan]} is {values[at]:g} at sample {sample}, instant "
                f"{start + time}, point {tuple(place)}; all values must be finite in float32"
                + ("; mask=nan leaves out points that have no value" if self.mask is None else "")
            )
        return found if self.mask is None else found.masked_fill(~self.mask, torch.nan)


class _Range(NamedTuple):
    """Instants start .. stop - 1 of a sample of a file."""

    file: int
    sample: int
    start: int
    stop: int


class TrajectoryPart(Dataset[dict[str, torch.Tensor]]):
    """Windows of trajectories, or whole ones.

    Args:
        files: The files.
        ranges: Which instants of which samples belong to the part.
        steps_in: Instants in an input.
        steps_out: Instants in a target.
        whole: One item for each sample, its window at the start and the `trajectory` that follows; instead of every
            window.
        steps: At most that many instants of it.
    """

    def __init__(
        self,
        files: Sequence[SelectedFile],
        ranges: Sequence[_Range],
        steps_in: int,
        steps_out: int,
        whole: bool = False,
        steps: int | None = None,
    ) -> None:
        self.files, self.ranges = list(files), list(ranges)
        self.steps_in, self.steps_out, self.whole, self.steps = steps_in, steps_out, whole, steps
        counts = [1 if whole else r.stop - r.start - steps_in - steps_out + 1 for r in self.ranges]
        self._ends = np.cumsum(counts)
        self.fill: torch.Tensor | None = None

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        place = int(np.searchsorted(self._ends, index, side="right"))
        first = self.ranges[place]
        start = first.start + index - (int(self._ends[place - 1]) if place else 0)
        begin = start + self.steps_in
        stop = min(first.stop, begin + (self.steps or first.stop)) if self.whole else begin + self.steps_out
        stop = max(stop, begin + self.steps_out)
        file = self.files[first.file]
        states = self._filled(file.states(first.sample, start, stop))
        sample = {
            "x": assemble(states[: self.steps_in], file.fixed(first.sample), file.mask, self.fill),
            "y": states[self.steps_in : self.steps_in + self.steps_out].flatten(0, 1),
            "index": torch.tensor(index),
        }
        if file.mask is not None:
            sample["mask"] = file.mask
        if self.whole:
            sample["trajectory"] = states[self.steps_in :]
        return sample

    def _filled(self, states: torch.Tensor) -> torch.Tensor:
        chans = states.shape[1]
        return filled(states, None if self.fill is None else self.fill[:chans])

    def blocks(self) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
        """All states of the part, a few instants at a time, (T, C, *size), and the constants of their sample."""
        for r in self.ranges:
            file = self.files[r.file]
            fixed = file.fixed(r.sample)
            for start in range(r.start, r.stop, _BLOCK):
                yield file.states(r.sample, start, min(r.stop, start + _BLOCK)), fixed


def fill_of(mean: torch.Tensor, file: SelectedFile, history: int) -> torch.Tensor:
    """What points outside the domain are filled with, for the channels of a state and the constants, (C + K,).

    Args:
        mean: Mean of each channel of an input, (history * C + K,), and that of the mask, if there is one.
        file: Whose fields they are.
        history: States in an input.
    """
    chans = len(file.names)
    return torch.cat([mean[:chans], mean[history * chans :][: len(file.constant_names)]])


def filled(values: torch.Tensor, fill: torch.Tensor | None) -> torch.Tensor:
    """Values (T, C, *size) with NaN, outside the domain, replaced by a number for each channel (C,), or by 0."""
    if fill is None:
        return values.nan_to_num(0.0)
    return torch.where(values.isnan(), fill.reshape(-1, *[1] * (values.ndim - 2)).to(values), values)


def assemble(
    states: torch.Tensor, fixed: torch.Tensor | None, mask: torch.Tensor | None, fill: torch.Tensor | None
) -> torch.Tensor:
    """The input of a model.

    Args:
        states: (T, C, *size), the oldest first, without NaN.
        fixed: Constants (K, *size), or None.
        mask: (1, *size), or None.
        fill: Numbers for what is outside the domain, (C + K,), or None for 0.

    Returns:
        (T * C + K + 1, *size): states, constants, and the mask as 0 and 1; without a mask, one channel less.
    """
    parts = [states.flatten(0, 1)]
    if fixed is not None:
        chans = states.shape[1]
        parts.append(filled(fixed.unsqueeze(0), None if fill is None else fill[chans:])[0])
    if mask is not None:
        parts.append(mask.to(states.dtype))
    return torch.cat(parts)


class FieldTrajectories(FieldData):
    """Fields over time of one's own, from files that may be larger than memory.

    Layouts that are known: PDEBench (one array for each field, or a group for each sample), the Well, NetCDF and Zarr
    with named dimensions. Any other HDF5 file and the formats of `blockzoo.tasks.fields.files.FieldFiles` are read once
    `axes` names the axes. All but `.npz`, `.pt` and such are read piece by piece. HDF5, NetCDF and Zarr need the extra
    `fields`.

    A sample is a window: `x` holds `steps_in` states, the oldest first, then the constants, then the mask; `y` holds
    the `steps_out` states that follow. A test sample is a whole trajectory.

    Args:
        path: The training part: a file, or a folder whose files of known endings are taken in the order of their names.
        val_path: The validation part; by default the end of the training part, see `val_fraction`.
        test_paths: Parts for tests, also on other grids.
        predict_path: What to predict; by default the first part for tests.
        val_fraction: Share of the training part's samples, its end, for validation; of a single sample its last
            instants.
        fields: Variables of the state; all that vary in time by default.
        constants: Further variables that are inputs; all that do not vary in time by default.
        axes: Names of the axes: in their order, "sample,time,x,y,channel", where a file does not tell them, or other
            names for dimensions, "member=sample,step=time".
        steps_in: States in an input.
        steps_out: States that are predicted at once.
        test_steps: States of a test trajectory; all by default.
        time_stride: Take every so manieth instant.
        space_stride: Take every so manieth point along each axis of space.
        mask: Variable that says which points belong to the domain (sea, fluid); or "nan": those that have values. Other
            points do not count in losses and metrics, are filled with the mean, and the mask is a further input.
        mask_marks: What non-zero entries of the mask mark: "valid" or "invalid" points.
        batch_size: Samples in a batch, on each device.
        num_workers: Processes that prepare batches.

    Raises:
        FileNotFoundError: A file is missing.
        ImportError: The package that reads a format is missing.
        ValueError: An option is out of range, an axis or a variable is not there, parts do not fit each other, or a
            value is not finite; the message names file, variable and place.
    """

    def __init__(
        self,
        path: str,
        val_path: str | None = None,
        test_paths: list[str] | None = None,
        predict_path: str | None = None,
        val_fraction: float = 0.1,
        fields: list[str] | None = None,
        constants: list[str] | None = None,
        axes: str | None = None,
        steps_in: int = 1,
        steps_out: int = 1,
        test_steps: int | None = None,
        time_stride: int = 1,
        space_stride: int = 1,
        mask: str | None = None,
        mask_marks: Marks = "valid",
        batch_size: int = 8,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers)
        counts = {
            "steps_in": steps_in,
            "steps_out": steps_out,
            "time_stride": time_stride,
            "space_stride": space_stride,
        }
        for name, value in {**counts, "test_steps": 1 if test_steps is None else test_steps}.items():
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if not 0 <= val_fraction < 1:
            raise ValueError(f"val_fraction={val_fraction} must be in [0, 1)")
        if mask_marks not in get_args(Marks):
            raise ValueError(f"mask_marks={mask_marks!r} must be 'valid' or 'invalid'")
        self.path, self.val_path, self.test_paths, self.predict_path = path, val_path, test_paths or [], predict_path
        self.val_fraction, self.axes = val_fraction, axes
        self.selection = Selection(fields, constants, mask, mask_marks, time_stride, space_stride)
        self.steps_in, self.steps_out, self.test_steps = steps_in, steps_out, test_steps
        self._statistics: dict[str, torch.Tensor] | None = None

    def setup(self, stage: str) -> None:
        """Open and check the files; the same whatever the stage."""
        if self.datasets:
            return
        files = self._open(self.path)
        self.first = files[0]
        whole = [
            _Range(i, sample, 0, file.times) for i, file in enumerate(files) for sample in range(file.file.samples)
        ]
        train, val = self._split(whole) if self.val_path is None else (whole, [])
        parts: dict[str, Any] = {"train": self._part(files, train)}
        if val:
            parts["val"] = self._part(files, val)
        if self.val_path is not None:
            parts["val"] = self._whole_part(self.val_path, False)
        self.datasets = dict(parts)
        tests: list[Any] = [self._whole_part(path, True) for path in self.test_paths]
        self._set_tests(tests)
        if self.predict_path is not None:
            self.datasets["predict"] = self._whole_part(self.predict_path, True)
        if self.selection.mask is not None:
            fill = fill_of(self.statistics["input_mean"], self.first, self.steps_in)
            for part in (*self.datasets.values(), *self.test_sets):
                part.fill = fill  # type: ignore[attr-defined]

    def _open(self, path: str) -> list[SelectedFile]:
        place = Path(path)
        paths = [place]
        if place.is_dir() and place.suffix.lower() != ".zarr":
            paths = sorted(file for file in place.iterdir() if file.suffix.lower() in _ENDINGS)
            if not paths:
                raise FileNotFoundError(f"no files of fields in {place}; they end in {', '.join(_ENDINGS)}")
        files = [SelectedFile(open_fields(file, self.axes), self.selection) for file in paths]
        first = files[0]
        for file in files[1:]:
            self._compare(file, first, path)
            if file.size != first.size:
                raise ValueError(f"{file.file.path} has {file.size} points, {first.file.path} has {first.size}")
        return files

    @staticmethod
    def _compare(file: SelectedFile, first: SelectedFile, path: str) -> None:
        ours, theirs = (f"{f.names} and {f.constant_names}" for f in (first, file))
        if ours != theirs or len(file.size) != len(first.size):
            raise ValueError(f"{path}: {file.file.path} has the fields {theirs}, {first.file.path} {ours}")

    def _split(self, ranges: list[_Range]) -> tuple[list[_Range], list[_Range]]:
        """The training part's samples, and those for validation; of a single sample, its instants."""
        least = self.steps_in + self.steps_out
        if len(ranges) > 1:
            cut = len(ranges) - round(self.val_fraction * len(ranges))
            if not cut:
                raise ValueError(
                    f"{self.path} has {len(ranges)} samples; val_fraction={self.val_fraction} leaves none to train on"
                )
            return ranges[:cut], ranges[cut:]
        whole = ranges[0]
        held = round(self.val_fraction * whole.stop)
        if not held:
            return ranges, []
        if held < least or whole.stop - held < least:
            few, use = (held, "for validation") if held < least else (whole.stop - held, "to train on")
            raise ValueError(
                f"{self.path} has one sample of {whole.stop} instants; val_fraction={self.val_fraction} leaves {few} "
                f"{use}, fewer than a window of {least}"
            )
        cut = whole.stop - held
        return [whole._replace(stop=cut)], [whole._replace(start=cut)]

    def _part(self, files: list[SelectedFile], ranges: list[_Range], whole: bool = False) -> TrajectoryPart:
        least = self.steps_in + self.steps_out
        for r in ranges:
            if r.stop - r.start < least:
                raise ValueError(
                    f"{files[r.file].file.path} has {r.stop - r.start} instants with time_stride="
                    f"{self.selection.time_stride}; steps_in={self.steps_in} and steps_out={self.steps_out} need "
                    f"{least}"
                )
        return TrajectoryPart(files, ranges, self.steps_in, self.steps_out, whole, self.test_steps)

    def _whole_part(self, path: str, whole: bool) -> TrajectoryPart:
        files = self._open(path)
        self._compare(files[0], self.first, path)
        ranges = [_Range(i, sample, 0, f.times) for i, f in enumerate(files) for sample in range(f.file.samples)]
        return self._part(files, ranges, whole)

    @property
    def size(self) -> tuple[int, ...]:
        """Points along each axis of the training grid."""
        return self.first.size

    @property
    def channels(self) -> tuple[int, int]:
        """Channels of the inputs and of the targets."""
        state, more = len(self.first.names), len(self.first.constant_names) + (self.selection.mask is not None)
        return self.steps_in * state + more, self.steps_out * state

    @property
    def state_channels(self) -> int:
        """Channels of one state."""
        return len(self.first.names)

    @property
    def field_names(self) -> list[str]:
        """Names of the channels of a target."""
        names = self.first.names
        return names if self.steps_out == 1 else [f"{name}_{i}" for i in range(1, self.steps_out + 1) for name in names]

    @property
    def vectors(self) -> dict[str, list[int]]:
        """Channels of a target that are one vector field, by its name."""
        return self.first.vectors if self.steps_out == 1 else {}

    @property
    def statistics(self) -> dict[str, torch.Tensor]:
        """Mean and deviation of each channel over the points of the domain in the training part, read once."""
        if self._statistics is None:
            part: Any = self.datasets["train"]
            state, fixed = _Moments(len(self.first.names)), _Moments(len(self.first.constant_names))
            for states, constants in part.blocks():
                state.add(states)
                if constants is not None:
                    fixed.add(constants.unsqueeze(0))
            (mean, std), (fixed_mean, fixed_std) = state.result(), fixed.result()
            masked = [1] * (self.selection.mask is not None)
            zeros, ones = torch.zeros(len(masked)), torch.ones(len(masked))
            self._statistics = {
                "input_mean": torch.cat([mean.repeat(self.steps_in), fixed_mean, zeros]),
                "input_std": torch.cat([std.repeat(self.steps_in), fixed_std, ones]),
                "output_mean": mean.repeat(self.steps_out),
                "output_std": std.repeat(self.steps_out),
            }
        return self._statistics

    @property
    def description(self) -> dict[str, str]:
        """See `ZooData.description`."""
        name = Path(self.path).name
        val = f"{Path(self.val_path).name} for validation" if self.val_path else f"the last {self.val_fraction:.0%}"
        tests = f"; tests on {', '.join(Path(path).name for path in self.test_paths)}" if self.test_paths else ""
        return {"dataset": name, "license": "not known", "split": val + tests}


class _Moments:
    """Mean and deviation of channels over blocks, by sums in float64 around the first values."""

    def __init__(self, chans: int) -> None:
        self.count = torch.zeros(chans, dtype=torch.double)
        self.mean, self.squares = torch.zeros_like(self.count), torch.zeros_like(self.count)
        self.low, self.high = torch.full_like(self.count, torch.inf), torch.full_like(self.count, -torch.inf)

    def add(self, block: torch.Tensor) -> None:
        """Add (T, C, *size); NaN does not count."""
        values = block.double().transpose(0, 1).flatten(1)
        known = ~values.isnan()
        count = known.sum(1)
        mean = values.nanmean(1)
        squares = (values - mean.unsqueeze(1)).square().nansum(1)
        total = self.count + count
        shift = mean - self.mean
        # Chan's formula: exact for blocks whose means differ much from each other.
        self.squares += squares + shift.square() * self.count * count / total.clamp(min=1)
        self.mean += shift * count / total.clamp(min=1)
        self.count = total
        self.low = torch.minimum(self.low, torch.where(known, values, torch.inf).amin(1))
        self.high = torch.maximum(self.high, torch.where(known, values, -torch.inf).amax(1))

    def result(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation in float32; a constant channel has the deviation 1."""
        deviation = torch.sqrt(self.squares / (self.count - 1).clamp(min=1))
        return self.mean.float(), torch.where(self.low == self.high, 1.0, deviation).float()
