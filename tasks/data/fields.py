"""Pairs of fields for operator learning: Darcy flow, forced Navier-Stokes, and files of one's own.

    python -m blockzoo.tasks.data.fields neuraloperator-0.3.0-py3-none-any.whl darcy.safetensors

writes the compact form of the Darcy set, which is how `darcy.safetensors` beside this file was made.
"""

import abc
import argparse
import io
import zipfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from blockzoo.checkpoints import load_state_dict, save_state_dict
from blockzoo.tasks.data.base import ZooData
from blockzoo.tasks.data.navier_stokes import NavierStokesSettings, generate

__all__ = ["DarcyFlow", "FieldData", "FieldFiles", "NavierStokes", "read_darcy"]


class _Pairs(Dataset[dict[str, torch.Tensor]]):
    """Inputs and targets in memory, with further arrays that go along."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor, transpose: bool = False, **more: torch.Tensor) -> None:
        self.arrays = {"x": x, "y": y, **more}
        self.transpose = transpose

    def __len__(self) -> int:
        return len(self.arrays["x"])

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        sample = {key: value[index] for key, value in self.arrays.items()}
        if self.transpose and torch.rand(()) < 0.5:
            sample = {key: value.transpose(-1, -2) for key, value in sample.items()}
        return {**sample, "index": torch.tensor(index)}


class FieldData(ZooData, abc.ABC):
    """Pairs of input and target fields; the test part may come on several grids.

    A sample is `x` (C, *size), `y` (C', *size) and `index`; where a set has them, `trajectory` (T, C', *size) are the
    states that follow `x`, whose first C' channels are the state they start from.

    Args:
        batch_size: Samples in a batch, on each device.
        num_workers: Processes that prepare batches.
    """

    def __init__(self, batch_size: int = 32, num_workers: int = 0) -> None:
        super().__init__(batch_size, num_workers)
        self.test_sets: list[_Pairs] = []

    @property
    def statistics(self) -> dict[str, torch.Tensor]:
        """Mean and deviation of each channel over the training part: what `FNO.set_statistics` takes."""
        train: Any = self.datasets["train"]
        found = {}
        for name, key in (("input", "x"), ("output", "y")):
            values = train.arrays[key].transpose(0, 1).flatten(1).double()
            found[f"{name}_mean"] = values.mean(1).float()
            found[f"{name}_std"] = values.std(1).float()
        return found

    @property
    def size(self) -> tuple[int, ...]:
        """Points along each axis of the training grid."""
        train: Any = self.datasets["train"]
        return tuple(train.arrays["y"].shape[2:])

    @property
    def preprocessing(self) -> dict[str, Any]:
        """None: models keep the statistics themselves."""
        return {}

    def _set_tests(self, parts: list[_Pairs]) -> None:
        self.test_sets = parts
        if parts:
            self.datasets["test"] = parts[0]

    def test_dataloader(self) -> Any:
        """Batches of the test part, one loader for each grid."""
        return [DataLoader(part, self.batch_size, num_workers=self.num_workers) for part in self.test_sets]


def read_darcy(path: str | Path | None = None) -> dict[str, torch.Tensor]:
    """The Darcy set: `train_x` (1000, 16, 16), `train_y`, `test16_x` (50, 16, 16), `test32_x` (50, 32, 32), ...

    Args:
        path: A file that this module wrote; the packaged one by default.
    """
    if path is None:
        path = Path(str(files("blockzoo.tasks.data") / "darcy.safetensors"))
    stored = load_state_dict(path)
    found = {}
    for part, size in (("train", 16), ("test16", 16), ("test32", 32)):
        bits = np.unpackbits(stored[f"{part}.x"].numpy(), axis=1)
        found[f"{part}_x"] = torch.from_numpy(bits.reshape(-1, size, size)).float()
        found[f"{part}_y"] = stored[f"{part}.y"]
    return found


class DarcyFlow(FieldData):
    """Pressure of a flow through a medium of two materials, from the medium: -div(a grad u) = 1, u = 0 at the border.

    Source: the set that neuraloperator 0.3.0 ships (MIT), after "Fourier Neural Operator for Parametric Partial
    Differential Equations" (2021), section 5.2: 1000 training and 50 test samples on a grid of 16 x 16 points, and the
    same test samples on 32 x 32. The grid leaves out the border on one side of each axis. `x` is 0 or 1, `y` the
    pressure; neither is periodic.

    Args:
        val_size: Training samples that are held out for validation, the last ones.
        transpose: Swap the axes of half of the training samples, by lot: the equation has no preferred axis.
        batch_size: Samples in a batch, on each device.
        num_workers: Processes that prepare batches.

    Raises:
        ValueError: `val_size` leaves no training samples.
    """

    def __init__(self, val_size: int = 0, transpose: bool = False, batch_size: int = 32, num_workers: int = 0) -> None:
        super().__init__(batch_size, num_workers)
        if not 0 <= val_size < 1000:
            raise ValueError(f"val_size={val_size} must be from 0 to 999")
        self.val_size, self.transpose = val_size, transpose

    def setup(self, stage: str) -> None:
        """Read the packaged file; the same whatever the stage."""
        if self.datasets:
            return
        arrays = {name: value.unsqueeze(1) for name, value in read_darcy().items()}
        cut = 1000 - self.val_size
        self.datasets = {"train": _Pairs(arrays["train_x"][:cut], arrays["train_y"][:cut], self.transpose)}
        if self.val_size:
            self.datasets["val"] = _Pairs(arrays["train_x"][cut:], arrays["train_y"][cut:])
        self._set_tests([_Pairs(arrays[f"test{n}_x"], arrays[f"test{n}_y"]) for n in (16, 32)])

    @property
    def description(self) -> dict[str, str]:
        """See `ZooData.description`."""
        held = f", the last {self.val_size} held out" if self.val_size else ""
        split = f"1000 training samples at 16 x 16{held}; 50 test samples, at 16 x 16 and at 32 x 32"
        return {"dataset": "Darcy flow of neuraloperator 0.3.0", "license": "MIT", "split": split}


class NavierStokes(FieldData):
    """Vorticity of forced turbulence from its forcing, solved here, see `blockzoo.tasks.data.navier_stokes`.

    With `steps` = 1, `x` is the forcing and `y` the vorticity at `final_time`, starting from rest. With more, a sample
    leads from one instant to the next: `x` is the vorticity and the forcing, `y` the vorticity `final_time / steps`
    later, and a test sample carries the whole `trajectory`.

    Args:
        size: Points along each axis.
        train_size: Samples (of the forcing) for training.
        val_size: For validation.
        test_size: For tests.
        reynolds: Reynolds number.
        final_time: Time from rest.
        steps: Instants.
        amplitude: Of the forcing.
        seed: Of all samples; the three parts are different samples of one sequence.
        cfl: Step of the solver.
        dtype: Precision of the solver, "float64" or "float32".
        test_grids: Further grids to test on, as multiples of `size`, for example [2, 4].
        cache_dir: Folder of what has been solved; in the user's cache by default.
        batch_size: Samples in a batch, on each device.
        num_workers: Processes that prepare batches.
    """

    def __init__(
        self,
        size: int = 128,
        train_size: int = 500,
        val_size: int = 20,
        test_size: int = 100,
        reynolds: float = 500.0,
        final_time: float = 5.0,
        steps: int = 1,
        amplitude: float = 27.0,
        seed: int = 0,
        cfl: float = 1.0,
        dtype: str = "float64",
        test_grids: list[int] | None = None,
        cache_dir: str | None = None,
        batch_size: int = 8,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers)
        self.settings = NavierStokesSettings(size, reynolds, final_time, steps, amplitude, seed, cfl, dtype)
        self.sizes = {"train": train_size, "val": val_size, "test": test_size}
        self.test_grids = test_grids or []
        self.cache_dir = cache_dir

    def _part(self, name: str, settings: NavierStokesSettings) -> _Pairs:
        first = {"train": 0, "val": 500_000, "test": 1_000_000}[name]
        solved = generate(self.sizes[name], settings, first, self.cache_dir)
        forcing, w = solved["forcing"].unsqueeze(1), solved["vorticity"].unsqueeze(2)
        steps = settings["steps"]
        if steps == 1:
            return _Pairs(forcing, w[:, 0])
        states = torch.cat([torch.zeros_like(w[:, :1]), w], 1)
        if name == "test":
            return _Pairs(torch.cat([states[:, 0], forcing], 1), states[:, 1], trajectory=w)
        x = torch.cat([states[:, :-1], forcing.unsqueeze(1).expand(-1, steps, -1, -1, -1)], 2)
        return _Pairs(x.flatten(0, 1), w.flatten(0, 1))

    def prepare_data(self) -> None:
        """Solve what is not in the cache; by one process of a machine."""
        for name, count in self.sizes.items():
            if count:
                self._part(name, self.settings)

    def setup(self, stage: str) -> None:
        """Read what has been solved; the same whatever the stage."""
        if self.datasets:
            return
        self.datasets = {name: self._part(name, self.settings) for name in ("train", "val") if self.sizes[name]}
        grids = [1, *self.test_grids]
        finer = [NavierStokesSettings(**{**self.settings, "size": self.settings["size"] * grid}) for grid in grids]
        self._set_tests([self._part("test", settings) for settings in finer] if self.sizes["test"] else [])

    @property
    def description(self) -> dict[str, str]:
        """See `ZooData.description`."""
        about = self.settings
        split = ", ".join(f"{count} {name}" for name, count in self.sizes.items())
        what = (
            f"forced 2-D Navier-Stokes, Re {about['reynolds']:g}, time {about['final_time']:g}, {about['size']} points"
        )
        return {
            "dataset": f"{what} (solved by blockzoo, seed {about['seed']})",
            "license": "Apache-2.0",
            "split": split,
        }


class FieldFiles(FieldData):
    """Fields of one's own: files with the arrays `x` (N, C, *size) and `y` (N, C', *size).

    Args:
        path: Training file, `.safetensors` or `.npz`; arrays (N, *size) are taken for one channel.
        test_paths: Test files, one for each grid.
        val_fraction: Share of the training samples, the last ones, held out for validation.
        batch_size: Samples in a batch, on each device.
        num_workers: Processes that prepare batches.

    Raises:
        FileNotFoundError: A file is not there.
        ValueError: A file lacks an array, or arrays do not fit each other or are not finite.
    """

    def __init__(
        self,
        path: str,
        test_paths: list[str] | None = None,
        val_fraction: float = 0.1,
        batch_size: int = 32,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers)
        if not 0 <= val_fraction < 1:
            raise ValueError(f"val_fraction={val_fraction} must be in [0, 1)")
        self.path, self.test_paths, self.val_fraction = path, test_paths or [], val_fraction

    def setup(self, stage: str) -> None:
        """Read and check the files; the same whatever the stage."""
        if self.datasets:
            return
        x, y = _read_pairs(self.path)
        cut = len(x) - round(self.val_fraction * len(x))
        self.datasets = {"train": _Pairs(x[:cut], y[:cut])}
        if cut < len(x):
            self.datasets["val"] = _Pairs(x[cut:], y[cut:])
        self._set_tests([_Pairs(*_read_pairs(path)) for path in self.test_paths])

    @property
    def description(self) -> dict[str, str]:
        """See `ZooData.description`."""
        split = f"the last {self.val_fraction:.0%} of {Path(self.path).name} for validation; tests on other files"
        return {"dataset": Path(self.path).name, "license": "not known", "split": split}


def _read_pairs(path: str) -> tuple[torch.Tensor, torch.Tensor]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {path}; it must hold the arrays x and y, as .safetensors or .npz")
    if path.endswith(".npz"):
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: torch.from_numpy(np.ascontiguousarray(file[name])) for name in file.files}
    else:
        arrays = load_state_dict(path)
    if not {"x", "y"} <= set(arrays):
        raise ValueError(f"{path} must hold the arrays x and y, it holds {', '.join(sorted(arrays)) or 'none'}")
    x, y = arrays["x"].float(), arrays["y"].float()
    if x.ndim == 3 and y.ndim == 3:  # one channel in two dimensions
        x, y = x.unsqueeze(1), y.unsqueeze(1)
    if len(x) != len(y) or x.shape[2:] != y.shape[2:] or x.ndim < 3:
        raise ValueError(
            f"{path}: x {tuple(x.shape)} and y {tuple(y.shape)} must be (N, C, *size) with equal N and size"
        )
    for name, array in (("x", x), ("y", y)):
        if not torch.isfinite(array).all():
            index = tuple(int(i) for i in (~torch.isfinite(array)).nonzero()[0])
            raise ValueError(f"{path}: {name}{list(index)} is {float(array[index])}; all values must be finite")
    return x, y


def _convert_darcy(wheel: str, out: str) -> None:
    tensors = {}
    with zipfile.ZipFile(wheel) as archive:
        for part, name in (("train", "darcy_train_16"), ("test16", "darcy_test_16"), ("test32", "darcy_test_32")):
            content = io.BytesIO(archive.read(f"neuralop/datasets/data/{name}.pt"))
            arrays = torch.load(content, weights_only=True)
            bits = np.packbits(arrays["x"].flatten(1).numpy(), axis=1)
            tensors[f"{part}.x"], tensors[f"{part}.y"] = torch.from_numpy(bits), arrays["y"]
    save_state_dict(tensors, out, {"origin": "neuraloperator 0.3.0, MIT licence"})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel")
    parser.add_argument("out")
    known = parser.parse_args()
    _convert_darcy(known.wheel, known.out)
