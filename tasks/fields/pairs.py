"""Pairs of fields for operator learning: what all sets share, and flows that are solved here."""

import abc
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from blockzoo.tasks.core.data import ZooData
from blockzoo.tasks.fields.solver import NavierStokesSettings, generate

__all__ = ["FieldData", "FieldPairs", "NavierStokes"]


class FieldPairs(Dataset[dict[str, torch.Tensor]]):
    """Arrays in memory, by name; optionally with the axes of space randomly swapped."""

    def __init__(self, transpose: bool = False, **arrays: torch.Tensor) -> None:
        self.arrays = arrays
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
        self.test_sets: list[FieldPairs] = []

    @property
    def statistics(self) -> dict[str, torch.Tensor]:
        """Mean and deviation of each channel over the training part: the arguments of `FNO.set_statistics`.

        A channel that is constant over the whole part has the deviation 1.
        """
        train: Any = self.datasets["train"]
        found = {}
        for name, key in (("input", "x"), ("output", "y")):
            values = train.arrays[key].transpose(0, 1).flatten(1).double()
            # A constant channel has no deviation to divide by: 1 leaves it at its distance from the mean, 0.
            constant = values.amax(1) == values.amin(1)
            deviation = torch.ones_like(values[:, 0]) if values.shape[1] == 1 else values.std(1)
            found[f"{name}_mean"] = values.mean(1).float()
            found[f"{name}_std"] = torch.where(constant, 1.0, deviation).float()
        return found

    @property
    def size(self) -> tuple[int, ...]:
        """Points along each axis of the training grid."""
        return tuple(self._first["x"].shape[2:])

    @property
    def channels(self) -> tuple[int, int]:
        """Channels of the inputs and of the targets."""
        return self._first["x"].shape[1], self._first["y"].shape[1]

    @property
    def _first(self) -> dict[str, torch.Tensor]:
        found: Any = next(iter(self.datasets.values()))
        return dict(found.arrays)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """None: models keep the statistics themselves."""
        return {}

    def _set_tests(self, parts: list[FieldPairs]) -> None:
        self.test_sets = parts
        if parts:
            self.datasets["test"] = parts[0]

    def test_dataloader(self) -> Any:
        """Batches of the test part, one loader for each grid."""
        return [
            DataLoader(dataset=part, batch_size=self.batch_size, num_workers=self.num_workers)
            for part in self.test_sets
        ]


_FIRST = {"train": 0, "val": 500_000, "test": 1_000_000}
"""Number of the first sample of each part in the sequence of a seed."""


class NavierStokes(FieldData):
    """Vorticity of forced turbulence from its forcing, solved by `blockzoo.tasks.fields.solver`.

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
        streams: How random numbers follow from `seed`, see `blockzoo.tasks.fields.solver.random_forcing`; 1 repeats
            the data of blockzoo 0.1, which the shipped checkpoint was trained on.
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
        streams: int = 2,
        test_grids: list[int] | None = None,
        cache_dir: str | None = None,
        batch_size: int = 8,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers)
        if seed < 0:
            raise ValueError(f"seed={seed} must not be negative")
        if train_size < 1 or min(val_size, test_size) < 0 or max(train_size, val_size) > _FIRST["val"]:
            raise ValueError(
                f"train_size={train_size} must be from 1 to {_FIRST['val']}, val_size={val_size} up to that, "
                f"and test_size={test_size} not negative"
            )
        if any(grid < 2 for grid in test_grids or []):
            raise ValueError(f"test_grids={test_grids} must be multiples of size, from 2")
        self.settings = NavierStokesSettings(size, reynolds, final_time, steps, amplitude, seed, cfl, dtype, streams)
        self.sizes = {"train": train_size, "val": val_size, "test": test_size}
        self.test_grids = test_grids or []
        self.cache_dir = cache_dir

    def _parts(self) -> list[tuple[str, NavierStokesSettings]]:
        """The parts that are wanted, and for tests also the finer grids."""
        size = self.settings["size"]
        finer = [NavierStokesSettings(**{**self.settings, "size": size * grid}) for grid in self.test_grids]
        wanted = [("train", self.settings), ("val", self.settings), *[("test", s) for s in (self.settings, *finer)]]
        return [(name, settings) for name, settings in wanted if self.sizes[name]]

    def _solved(self, name: str, settings: NavierStokesSettings) -> dict[str, torch.Tensor]:
        return generate(self.sizes[name], settings, _FIRST[name], self.cache_dir)

    def _part(self, name: str, settings: NavierStokesSettings) -> FieldPairs:
        solved = self._solved(name, settings)
        forcing, w = solved["forcing"].unsqueeze(1), solved["vorticity"].unsqueeze(2)
        steps = settings["steps"]
        if steps == 1:
            return FieldPairs(x=forcing, y=w[:, 0])
        states = torch.cat([torch.zeros_like(w[:, :1]), w], 1)
        if name == "test":
            return FieldPairs(x=torch.cat([states[:, 0], forcing], 1), y=states[:, 1], trajectory=w)
        x = torch.cat([states[:, :-1], forcing.unsqueeze(1).expand(-1, steps, -1, -1, -1)], 2)
        return FieldPairs(x=x.flatten(0, 1), y=w.flatten(0, 1))

    def prepare_data(self) -> None:
        """Solve the samples that are not in the cache; in one process per machine."""
        for name, settings in self._parts():
            self._solved(name, settings)

    def setup(self, stage: str) -> None:
        """Read the solved samples, for every stage."""
        if self.datasets:
            return
        parts = [(name, self._part(name, settings)) for name, settings in self._parts()]
        self.datasets = {name: part for name, part in parts if name != "test"}
        self._set_tests([part for name, part in parts if name == "test"])

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
