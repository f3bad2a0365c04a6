"""Fixtures that all tests share."""

import itertools
import json
import os
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if "PYTEST_XDIST_WORKER" in os.environ:  # several processes share the cores: one thread each, in children too
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
# The checkout's own folders must not be importable under their bare names: `kernels` is also a package of others.
sys.path[:] = [entry for entry in sys.path if Path(entry or os.curdir).resolve() != ROOT]
os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(autouse=True)
def _isolated(tmp_path_factory, monkeypatch):
    """No test reads or writes the user's cache, and each starts from the same random state."""
    monkeypatch.setenv("BLOCKZOO_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    torch.manual_seed(0)


def noise(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal values that depend only on a name."""
    return np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))).standard_normal(shape, dtype=np.float32)


def named_weight(
    name: str, shape: tuple[int, ...], gain: float, dtype: str = "float32", scale: list[float] | None = None
) -> torch.Tensor:
    """The golden cases' value of the official parameter or buffer `name`."""
    if dtype.startswith("complex"):
        spread, offset = scale or (np.sqrt(gain / np.prod(shape[1:])) if len(shape) >= 2 else 0.1, 0.0)
        return torch.view_as_complex(torch.from_numpy(np.float32(spread) * noise(name, (*shape, 2)))) + offset
    x = noise(name, shape)
    if scale:
        return torch.from_numpy(np.asarray(np.float32(scale[0]) * x + np.float32(scale[1])))
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    if name.endswith("running_var"):
        x = 1 + 0.1 * np.abs(x)
    elif name.endswith("running_mean"):
        x = 0.1 * x
    elif name.endswith("gamma"):
        x = 1 + 0.1 * x
    elif len(shape) >= 2:
        x = x * np.float32(np.sqrt(gain / np.prod(shape[1:])))
    elif name.endswith(("weight", "scale")):
        x = 1 + 0.1 * x
    else:
        x = 0.1 * x
    return torch.from_numpy(np.asarray(x))


def named_image(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The golden cases' input of shape (B, C, *space): coarse blocks plus noise."""
    coarse = noise(name, (*shape[:2], *[8] * (len(shape) - 2)))
    for axis, size in enumerate(shape[2:], start=2):
        coarse = coarse.take(np.arange(size) * 8 // size, axis=axis)
    return torch.from_numpy(coarse + noise(f"{name}:fine", shape))


def golden_error(ours: torch.Tensor | np.ndarray, theirs: torch.Tensor | np.ndarray) -> float:
    """Largest difference from stored values, as a fraction of the largest magnitude among them.

    Rounding grows with the magnitude of the values that are summed, not with their spread. A bound on this fraction
    therefore holds on every CPU: of values -0.19 ± 0.002 a bound in units of their spread would ask for 8 digits.

    Args:
        ours: What this repository computes.
        theirs: The stored values, of the same shape, at least one of which is not zero.
    """
    ours, theirs = (torch.as_tensor(values).detach().double() for values in (ours, theirs))
    assert ours.shape == theirs.shape, f"shape {tuple(ours.shape)} is stored as {tuple(theirs.shape)}"
    largest = theirs.abs().max()
    assert largest > 0, "the stored values are all zero: compare with torch.equal"
    return float((ours - theirs).abs().max() / largest)


@dataclass
class Golden:
    """One case: what an official implementation computed from name-seeded weights."""

    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]

    def array(self, *names: str) -> torch.Tensor | None:
        """The first stored input of these names."""
        return next((torch.from_numpy(self.arrays[name]) for name in names if name in self.arrays), None)

    @staticmethod
    def noise(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """The named noise that weights are made of."""
        return torch.from_numpy(noise(name, tuple(shape)))

    def image(self) -> torch.Tensor:
        """The named input, of the case's shape; plain noise where the case says so."""
        if "input_shapes" in self.meta:
            return torch.from_numpy(noise("input:x", tuple(self.meta["input_shapes"]["x"])))
        return named_image("input:x", tuple(self.meta["input_shape"]))

    def field(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """A further named input."""
        return named_image(f"input:{name}", shape)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The official state dict."""
        return {
            name: self.array(f"extra_sd_{name}")
            if f"extra_sd_{name}" in self.arrays
            else named_weight(
                name, tuple(shape), self.meta.get("gain", 2.0), dtype, self.meta.get("scales", {}).get(name)
            )
            for name, shape, dtype, filled in self.meta["table"]
            if filled
        }

    def error(self, name: str, ours: torch.Tensor) -> float:
        """The golden error of a stored output, of which one value in `stride` is kept."""
        stride = self.meta["outputs"][name]["stride"]
        assert list(ours.shape) == self.meta["outputs"][name]["shape"]
        return golden_error(ours.detach().flatten()[::stride], self.arrays[f"out_{name}"].ravel())


@pytest.fixture(name="noise")
def noise_fixture():
    """The golden cases' noise, a function of name and shape."""
    return noise


@pytest.fixture(name="golden_error")
def golden_error_fixture():
    """The measure that every comparison with stored values uses."""
    return golden_error


@pytest.fixture
def golden():
    """Loads a case by name."""

    def load(name: str) -> Golden:
        with np.load(ROOT / "tests" / "golden" / f"{name}.npz") as file:
            arrays = {key: file[key] for key in file.files}
        return Golden(arrays, json.loads(arrays.pop("meta").tobytes()))

    return load


@pytest.fixture
def waves():
    """Makes a field (1, *size, 1) of a few whole waves up to a frequency, known on every grid."""

    def make(size: tuple[int, ...], highest: int, seed: int = 0) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        points = torch.meshgrid(*[torch.arange(n, dtype=torch.double) / n for n in size], indexing="ij")
        field = torch.zeros(size, dtype=torch.double)
        for k in itertools.product(range(-highest, highest + 1), repeat=len(size)):
            a, b = torch.randn(2, generator=generator, dtype=torch.double)
            phase = 2 * torch.pi * sum(f * p for f, p in zip(k, points, strict=True))
            field = field + a * torch.cos(phase) + b * torch.sin(phase)
        return field[None, ..., None]

    return make
