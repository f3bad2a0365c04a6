"""Forced two-dimensional turbulence: a pseudo-spectral solver and data sets made by it.

Vorticity w on the periodic square [0, 2 pi)², pushed by a forcing f that does not change in time:

    dw/dt + u dw/dx + v dw/dy = (1 / Re) (d²w/dx² + d²w/dy²) + f,   u = dpsi/dy, v = -dpsi/dx, -laplacian psi = w

Space: Fourier series, products in space with the upper third of the frequencies removed (2/3 rule). Time: fourth-order
Runge-Kutta with the viscous term solved exactly (integrating factor), steps as large as `cfl` allows.

Sources: the setting of "Multi-Grid Tensorized Fourier Neural Operator for High-Resolution PDEs" (2023), section 5;
Gaussian random fields as in "Fourier Neural Operator for Parametric Partial Differential Equations" (2021), appendix.

    blockzoo science navier-stokes --count 1000 --size 128 --dtype float32

makes samples ahead of a training, which finds them in the cache. With `--out FILE`, they are also written to a file
that `FieldFiles` reads. An interrupted command continues where it stopped.
"""

import argparse
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from tqdm.auto import tqdm

from blockzoo.checkpoints import cache_root, load_state_dict, save_state_dict
from blockzoo.tasks.core.output import add_cache_dir, add_out
from blockzoo.tasks.core.streams import stream

__all__ = ["NavierStokesSettings", "add_arguments", "generate", "random_forcing", "run", "solve_vorticity"]

_SPECTRUM = 64
"""Random coefficients are drawn for a grid of this size, so that a function does not depend on its grid."""

_CHUNK = 20
"""Samples that are solved together; part of what a data set is, since they share time steps."""


def _wavenumbers(n: int, dtype: torch.dtype, device: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Whole numbers of the first (n, 1) and of the last, halved axis (1, n // 2 + 1)."""
    first = torch.fft.fftfreq(n, 1 / n, dtype=dtype, device=device).unsqueeze(1)
    return first, torch.arange(n // 2 + 1, dtype=dtype, device=device).unsqueeze(0)


def random_forcing(
    indices: Sequence[int],
    size: int,
    seed: int = 0,
    amplitude: float = 27.0,
    tau: float = 3.0,
    alpha: float = 4.0,
    dtype: torch.dtype = torch.float64,
    streams: int = 2,
) -> torch.Tensor:
    """Gaussian random fields with spectrum amplitude² (|k|² + tau²) ** -alpha and mean zero.

    Args:
        indices: Which fields of the sequence of `seed`; each is the same for every choice of the others.
        size: Points along each axis, at least 64.
        seed: Of the sequence.
        amplitude: Scale; 27 with the other defaults gives a standard deviation of about 1.
        tau: Inverse length.
        alpha: Smoothness.
        dtype: Of the result; the numbers are drawn and summed in float64.
        streams: 2 gives every field of every seed random numbers of its own. 1 repeats the data of blockzoo 0.1, in
            which field `i + 1_000_003` of a seed is field `i` of the next one.

    Returns:
        (len(indices), size, size).

    Raises:
        ValueError: `size` is less than 64, `streams` is neither 1 nor 2, or `seed` is negative.
    """
    if size < _SPECTRUM:
        raise ValueError(f"size={size} must be at least {_SPECTRUM}, the grid that random coefficients are drawn for")
    if streams not in (1, 2):
        raise ValueError(f"streams={streams} must be 1 or 2")
    k1, k2 = _wavenumbers(_SPECTRUM, torch.float64)
    deviation = amplitude * (k1**2 + k2**2 + tau**2) ** (-alpha / 2)
    deviation[0, 0] = 0
    deviation[_SPECTRUM // 2] = 0
    deviation[:, -1] = 0
    fields = []
    for index in indices:
        white = _white_noise(seed, int(index), streams)
        spectrum = torch.fft.rfft2(white, norm="ortho") * deviation
        whole = torch.zeros(size, size // 2 + 1, dtype=torch.complex128)
        half = _SPECTRUM // 2
        whole[:half, :half] = spectrum[:half, :half]
        whole[-half + 1 :, :half] = spectrum[-half + 1 :, :half]
        fields.append(torch.fft.irfft2(whole, s=(size, size), norm="forward"))
    return torch.stack(fields).to(dtype)


def _white_noise(seed: int, index: int, streams: int) -> torch.Tensor:
    """Standard normal values (64, 64) of one field."""
    if streams == 2:
        return torch.from_numpy(stream(seed, index).standard_normal((_SPECTRUM, _SPECTRUM)))
    generator = torch.Generator().manual_seed(seed * 1_000_003 + index)
    return torch.randn(_SPECTRUM, _SPECTRUM, generator=generator, dtype=torch.float64)


@torch.no_grad()
def solve_vorticity(
    forcing: torch.Tensor,
    reynolds: float = 500.0,
    times: Sequence[float] = (5.0,),
    initial: torch.Tensor | None = None,
    cfl: float = 1.0,
    max_step: float = 0.05,
) -> torch.Tensor:
    """Integrate the vorticity equation above.

    Args:
        forcing: f (B, n, n), float32 or float64, n even; x is the first axis of space.
        reynolds: Re.
        times: Instants to return, in increasing order.
        initial: w at time 0, (B, n, n); zero by default.
        cfl: Largest step in units of grid spacing over fastest speed in the batch.
        max_step: Largest step.

    Returns:
        w (B, len(times), n, n).

    Raises:
        ValueError: A shape, a time or a number is out of range.
        FloatingPointError: The solution is not finite.
    """
    batch, n, columns = forcing.shape
    if n != columns or n % 2:
        raise ValueError(f"forcing of shape {tuple(forcing.shape)} must be (B, n, n) with an even n")
    if not times or any(b <= a for a, b in zip((0.0, *times[:-1]), times, strict=True)):
        raise ValueError(f"times={tuple(times)} must increase from above 0")
    if reynolds <= 0 or cfl <= 0 or max_step <= 0:
        raise ValueError(f"reynolds={reynolds}, cfl={cfl} and max_step={max_step} must be positive")
    dtype = forcing.dtype
    kx, ky = _wavenumbers(n, dtype, forcing.device)
    squared = kx**2 + ky**2
    inverse = torch.where(squared == 0, torch.ones_like(squared), squared).reciprocal()
    kept = ((kx.abs() < n / 3) & (ky < n / 3)).to(dtype)
    viscosity = squared / reynolds
    pushed = torch.fft.rfft2(forcing) * kept
    w = torch.zeros_like(pushed) if initial is None else torch.fft.rfft2(initial.to(dtype)) * kept

    def velocity_and_slopes(w: torch.Tensor) -> torch.Tensor:
        psi = w * inverse
        fields = [1j * ky * psi, -1j * kx * psi, 1j * kx * w, 1j * ky * w]
        return torch.fft.irfft2(torch.stack(fields), s=(n, n))

    def change(fields: torch.Tensor) -> torch.Tensor:
        u, v, w_x, w_y = fields
        return pushed - torch.fft.rfft2(u * w_x + v * w_y) * kept

    now, found = 0.0, []
    for until in times:
        while until - now > 1e-12:
            fields = velocity_and_slopes(w)
            fastest = float(torch.sqrt(fields[0] ** 2 + fields[1] ** 2).max())
            if not math.isfinite(fastest):
                raise FloatingPointError(f"the solution is not finite at time {now:.4g}; use a smaller cfl than {cfl}")
            step = min(max_step, cfl * (2 * math.pi / n) / fastest if fastest else max_step)
            step = (until - now) / math.ceil((until - now) / step)
            half, whole = torch.exp(-viscosity * step / 2), torch.exp(-viscosity * step)
            a = change(fields)
            b = change(velocity_and_slopes(half * (w + step / 2 * a)))
            c = change(velocity_and_slopes(half * w + step / 2 * b))
            d = change(velocity_and_slopes(whole * w + step * half * c))
            w = whole * w + step / 6 * (whole * a + 2 * half * (b + c) + d)
            now += step
        now = until
        found.append(torch.fft.irfft2(w, s=(n, n)))
    return torch.stack(found, 1)


class NavierStokesSettings(dict[str, Any]):
    """What a generated data set is made of, all plain values."""

    def __init__(
        self,
        size: int = 128,
        reynolds: float = 500.0,
        final_time: float = 5.0,
        steps: int = 1,
        amplitude: float = 27.0,
        seed: int = 0,
        cfl: float = 1.0,
        dtype: str = "float64",
        streams: int = 2,
    ) -> None:
        if streams not in (1, 2):
            raise ValueError(f"streams={streams} must be 1 or 2")
        if dtype not in ("float32", "float64"):
            raise ValueError(f"dtype={dtype!r} must be 'float32' or 'float64'")
        if steps < 1:
            raise ValueError(f"steps={steps} must be positive")
        super().__init__(
            size=size,
            reynolds=reynolds,
            final_time=final_time,
            steps=steps,
            amplitude=amplitude,
            seed=seed,
            cfl=cfl,
            dtype=dtype,
            streams=streams,
        )

    @property
    def name(self) -> str:
        """A short name of exactly these settings."""
        about = {**self, "version": 1, "chunk": _CHUNK}
        if self["streams"] == 1:  # data of before there was a choice keep their name
            del about["streams"]
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
        return f"re{self['reynolds']:g}_{self['size']}_{digest.hexdigest()[:12]}"


def generate(
    count: int,
    settings: NavierStokesSettings,
    first: int = 0,
    cache_dir: str | Path | None = None,
    progress: bool = True,
) -> dict[str, torch.Tensor]:
    """Make the samples of a data set, or read them from the cache.

    They are made and stored in chunks, each written completely or not at all, so that an interrupted command continues
    where it stopped; the same settings give the same numbers on the same kind of machine.

    Args:
        count: Samples.
        settings: Settings of the data set.
        first: Number of the first sample, a multiple of the chunk of 20.
        cache_dir: Folder of chunks; by default `navier_stokes` in the user's cache.
        progress: Show a bar while samples are made.

    Returns:
        "forcing" (count, size, size) and "vorticity" (count, steps, size, size), float32.

    Raises:
        ValueError: `first` is not a multiple of 20, or `count` is not positive.
    """
    if count < 1 or first % _CHUNK:
        raise ValueError(f"count={count} must be positive, and first={first} a multiple of {_CHUNK}")
    home = Path(cache_dir) if cache_dir is not None else cache_root() / "navier_stokes"
    folder = home / settings.name
    folder.mkdir(parents=True, exist_ok=True)
    chunks = range(first // _CHUNK, -(-(first + count) // _CHUNK))
    paths = [folder / f"{chunk:05d}.safetensors" for chunk in chunks]
    missing = [chunk for chunk, path in zip(chunks, paths, strict=True) if not path.is_file()]
    dtype = getattr(torch, settings["dtype"])
    times = [settings["final_time"] * (i + 1) / settings["steps"] for i in range(settings["steps"])]
    with (
        FileLock(f"{folder}.lock"),
        tqdm(
            total=len(missing) * _CHUNK,
            unit="sample",
            desc="solving Navier-Stokes",
            disable=not progress or not missing,
        ) as bar,
    ):
        for chunk in missing:
            path = folder / f"{chunk:05d}.safetensors"
            if not path.is_file():
                indices = range(chunk * _CHUNK, (chunk + 1) * _CHUNK)
                forcing = random_forcing(
                    indices,
                    settings["size"],
                    settings["seed"],
                    settings["amplitude"],
                    dtype=dtype,
                    streams=settings["streams"],
                )
                w = solve_vorticity(forcing, settings["reynolds"], times, cfl=settings["cfl"])
                tensors = {"forcing": forcing.float(), "vorticity": w.float()}
                save_state_dict(tensors, path, {"settings": json.dumps(settings)})
            bar.update(_CHUNK)
    parts = [load_state_dict(path) for path in paths]
    return {key: torch.cat([part[key] for part in parts])[:count] for key in ("forcing", "vorticity")}


_WORDS = {
    "size": "points along each axis",
    "reynolds": "Reynolds number",
    "final_time": "time of the last record",
    "steps": "recorded times, evenly spaced up to the final one",
    "amplitude": "scale of the random forcing",
    "seed": "seed of the random forcing",
    "cfl": "Courant number, which sets the time step",
    "dtype": "floating point type",
    "streams": "1 repeats the data of blockzoo 0.1, see random_forcing",
}
"""What each setting is, for `--help`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--count", type=int, required=True, help="samples")
    parser.add_argument("--first", type=int, default=0, help=f"number of the first one, a multiple of {_CHUNK}")
    choices: dict[str, tuple[Any, ...]] = {"dtype": ("float32", "float64"), "streams": (1, 2)}
    for name, default in NavierStokesSettings().items():
        kind: Any = type(default)
        option = f"--{name.replace('_', '-')}"
        text = f"{_WORDS[name]} (default: {default})"
        parser.add_argument(option, type=kind, default=default, choices=choices.get(name), help=text)
    add_cache_dir(parser)
    parser.add_argument("--half", action="store_true", help="write float16, at half the size")
    add_out(parser, "also write all samples to this .safetensors file, as x (forcing) and y (vorticity)")


def run(args: argparse.Namespace) -> int:
    """Solve, and write where that was asked for."""
    if args.out:
        if Path(args.out).suffix != ".safetensors":
            raise ValueError(f"--out {args.out} must end in .safetensors")
    settings = NavierStokesSettings(**{name: getattr(args, name) for name in NavierStokesSettings()})
    solved = generate(args.count, settings, args.first, cache_root(args.cache_dir) / "navier_stokes")
    if args.out:
        dtype = torch.float16 if args.half else torch.float32
        tensors = {"x": solved["forcing"].unsqueeze(1).to(dtype), "y": solved["vorticity"].to(dtype)}
        save_state_dict(tensors, args.out, {"settings": json.dumps(settings)})
    shape = tuple(solved["vorticity"].shape)
    print(f"vorticity {shape}, deviation {float(solved['vorticity'][:, -1].std()):.4f}; settings {settings.name}")
    return 0
