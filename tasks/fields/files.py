"""Fields of one's own, from files."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from blockzoo.tasks.fields.pairs import FieldData, FieldPairs

__all__ = ["FieldFiles", "read_fields"]


class FieldFiles(FieldData):
    """Fields of one's own, from files that hold arrays by name: .npz, .safetensors, or .pt of a dictionary of tensors.

    Arrays are `x` (N, C, *size) and `y` (N, C', *size) on one grid. Files for tests may be on other grids, and may have
    `trajectory` (N, T, C', *size), the states that follow each `x`, whose first C' channels are the state they start
    from.

    Args:
        path: The training part.
        test_paths: Parts for tests.
        predict_path: What to predict, of which only `x` is read; by default the first part for tests.
        val_fraction: Share of the training part, its end, that is held out for validation.
        batch_size: Samples in a batch, on each device.
        num_workers: Processes that prepare batches.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file cannot be read as it should be, an array is missing, its shape does not fit the others, or a
            value is not finite; the message names file, array and place.
    """

    def __init__(
        self,
        path: str,
        test_paths: list[str] | None = None,
        predict_path: str | None = None,
        val_fraction: float = 0.1,
        batch_size: int = 32,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers)
        if not 0 <= val_fraction < 1:
            raise ValueError(f"val_fraction={val_fraction} must be in [0, 1)")
        self.path, self.test_paths, self.predict_path = path, test_paths or [], predict_path
        self.val_fraction = val_fraction

    def setup(self, stage: str) -> None:
        """Read and check the files; the same whatever the stage."""
        if self.datasets:
            return
        arrays = read_fields(self.path)
        count = len(arrays["x"])
        cut = count - round(self.val_fraction * count)
        if not cut:
            raise ValueError(
                f"{self.path} has {count} samples; val_fraction={self.val_fraction} leaves none to train on"
            )
        self.datasets = {"train": FieldPairs(x=arrays["x"][:cut], y=arrays["y"][:cut])}
        if cut < count:
            self.datasets["val"] = FieldPairs(x=arrays["x"][cut:], y=arrays["y"][cut:])
        self._set_tests([self._like_training(path, read_fields(path)) for path in self.test_paths])
        if self.predict_path is not None:
            self.datasets["predict"] = self._like_training(self.predict_path, read_fields(self.predict_path, ("x",)))

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


def read_fields(path: str | Path, needed: Sequence[str] = ("x", "y")) -> dict[str, torch.Tensor]:
    """Read and check the arrays of a file of fields, see `FieldFiles`.

    Args:
        path: The file.
        needed: Arrays that it must hold.

    Returns:
        `x`, `y` and `trajectory` as far as they are there, in float32.
    """
    arrays = _arrays(Path(path))
    for name in needed:
        if name not in arrays:
            raise ValueError(f"{path} must hold the array {name}; it holds {', '.join(sorted(arrays)) or 'none'}")
    names = ("x", "y", "trajectory")
    known: dict[str, torch.Tensor] = {name: arrays[name] for name in names if name in arrays}
    for name, array in known.items():
        if array.is_complex():
            raise ValueError(f"{path}: {name} is {array.dtype}; give the real and the imaginary part as two channels")
        known[name] = array = array.float()
        least = 4 if name == "trajectory" else 3
        if array.ndim < least or 0 in array.shape:
            shape = "(N, T, C, *size)" if name == "trajectory" else "(N, C, *size)"
            raise ValueError(f"{path}: {name} {tuple(array.shape)} must be {shape}, and not empty")
        if not torch.isfinite(array).all():
            index = [int(i) for i in (~torch.isfinite(array)).nonzero()[0]]
            raise ValueError(f"{path}: {name}{index} is {float(array[tuple(index)])}; all values must be finite")
    _check_together(path, known)
    return known


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


def _arrays(path: Path) -> dict[str, torch.Tensor]:
    """All arrays of a file; of what it holds, only arrays of numbers."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; it must hold the arrays x and y, as .npz, .safetensors or .pt")
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return {name: torch.from_numpy(np.ascontiguousarray(file[name])) for name in file.files}
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix in (".pt", ".pth"):
            content = torch.load(path, map_location="cpu", weights_only=True)
            if not isinstance(content, dict):
                raise ValueError(f"it holds a {type(content).__name__}, not a dictionary of tensors")
            return {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    except (
        ValueError,
        TypeError,
        EOFError,
        zipfile.BadZipFile,
        SafetensorError,
        UnpicklingError,
        RuntimeError,
    ) as error:
        raise ValueError(f"{path} cannot be read as {path.suffix}: {error}") from error
    raise ValueError(f"{path} must end in .npz, .safetensors or .pt")
