"""Discrete Fourier transforms that compute only the frequencies that are kept.

Two exact forms of the same linear map:

- "dft": products with real matrices of cosines and sines, one axis after the other, the real axis first. Per value of
  the field, axis i costs about 2 * kept_i multiplications, and nothing is permuted, since channels stay last. Works in
  every floating type, under autocast, and without complex numbers (ONNX).
- "fft": fast transforms, one axis after the other; frequencies that are not kept are dropped as soon as an axis is
  done. Empty batches use "dft", since libraries refuse them.

"auto" uses "dft" if few frequencies are kept, see `uses_dft`.

Conventions: analysis divides by the number of points (`norm="forward"`), synthesis does not. Spectra are
(B, 2, *kept, C), real and imaginary part on axis 1. The last axis of a real field keeps only non-negative frequencies.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch

__all__ = ["Band", "Backend", "analyse", "kept_bands", "resample", "row_tables", "synthesise", "uses_dft"]

Backend = Literal["auto", "dft", "fft"]


class Band(NamedTuple):
    """The frequencies low, low + 1, .., low + count - 1 of one axis."""

    low: int
    count: int  # type: ignore[assignment]


def kept_bands(size: Sequence[int], n_modes: Sequence[int], is_complex: bool = False) -> list[Band]:
    """Frequencies of a grid that a layer with `n_modes` modes keeps.

    An axis with m modes keeps -(m // 2) .. m - m // 2 - 1, the last axis of a real field 0 .. m // 2, as far as these
    are frequencies of the grid: -(n // 2) .. (n - 1) // 2 and 0 .. n // 2.

    Args:
        size: Points along each axis.
        n_modes: Modes along each axis.
        is_complex: Whether the field is complex, so that the last axis is like the others.
    """
    bands = []
    for axis, (n, m) in enumerate(zip(size, n_modes, strict=True)):
        if axis == len(size) - 1 and not is_complex:
            bands.append(Band(0, min(m // 2, n // 2) + 1))
        else:
            low, high = -min(m // 2, n // 2), min(m - m // 2 - 1, (n - 1) // 2)
            bands.append(Band(low, high - low + 1))
    return bands


_tables: dict[tuple[object, ...], torch.Tensor] = {}
_MAX_TABLES = 256


def _table(kind: str, n: int, band: Band, half: bool, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The matrix of one axis, see `_make_table`; kept between calls, except while a graph is recorded."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return _make_table(kind, n, band, half, dtype, device)
    key = (kind, n, band, half, dtype, device)
    if key not in _tables:
        if len(_tables) >= _MAX_TABLES:
            _tables.pop(next(iter(_tables)))
        with torch.inference_mode(False), torch.no_grad():
            _tables[key] = _make_table(kind, n, band, half, dtype, device)
    return _tables[key]


def _make_table(kind: str, n: int, band: Band, half: bool, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The matrix of one axis.

    Analysis: (2 * m, n) of a real axis, (2 * m, n * 2) of a complex one. Synthesis: the transposed shapes.

    Real and imaginary parts are before the frequencies, and after the points.
    """
    points = torch.arange(n, device=device)
    frequencies = torch.arange(band.low, band.low + band.count, device=device)
    # Exact integers, reduced before they become an angle.
    angle = torch.remainder(torch.outer(frequencies, points), n).double() * (2 * math.pi / n)
    cos, sin = torch.cos(angle), torch.sin(angle)  # (m, n)
    if kind == "analysis":
        if half:
            table = torch.cat([cos, -sin])
        else:
            real, imag = torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)  # (m, n, 2)
            table = torch.cat([real, imag]).flatten(1)
        return (table / n).to(dtype)
    if half:
        once = (frequencies == 0) | (2 * frequencies == n)
        weight = torch.where(once, 1.0, 2.0).double().unsqueeze(-1)
        return torch.cat([weight * cos, -weight * sin]).transpose(0, 1).contiguous().to(dtype)
    real, imag = torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)  # of a real and an imaginary coefficient
    return torch.cat([real, imag]).flatten(1).transpose(0, 1).contiguous().to(dtype)


_LIMIT, _TRAINING_LIMIT = 180, 300


def uses_dft(size: Sequence[int], bands: Sequence[Band], x: torch.Tensor, is_complex: bool = False) -> bool:
    """Whether backend "auto" uses "dft".

    It does if the matrices need at most `_LIMIT` multiplications per axis for each value of the field, or
    `_TRAINING_LIMIT` while gradients are recorded: there, fast transforms run backward over all frequencies. Between 16
    and 4096 points an axis and 1 to 3 axes, both forms take about the same time at these numbers, on one thread of a
    CPU with 512-bit vectors (`blockzoo bench fno` measures both). Only matrices work in other types, under autocast and
    in ONNX.

    Args:
        size: Points along each axis.
        bands: Frequencies kept.
        x: What is transformed, for its type and device.
        is_complex: Whether the field is.
    """
    if x.dtype not in (torch.float32, torch.float64) or torch.is_autocast_enabled(x.device.type):
        return True
    if torch.onnx.is_in_onnx_export():
        return True
    cost, share = 0.0, 1.0
    for axis in range(len(size) - 1, -1, -1):
        real = axis == len(size) - 1 and not is_complex
        cost += share * (2 if real else 4) * bands[axis].count
        share *= bands[axis].count / size[axis]
    return cost <= len(size) * (_TRAINING_LIMIT if torch.is_grad_enabled() else _LIMIT)


def row_tables(n: int, band: Band, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Matrices of analysis (2 * m, n) and synthesis (n, 2 * m) along the last axis of a real field."""
    kinds = ("analysis", "synthesis")
    analysis, synthesis = (_table(kind, n, band, True, like.dtype, like.device) for kind in kinds)
    return analysis, synthesis


def analyse(
    x: torch.Tensor,
    bands: Sequence[Band],
    is_complex: bool = False,
    backend: Backend = "auto",
    size: Sequence[int] | None = None,
) -> torch.Tensor:
    """Coefficients of the kept frequencies.

    Args:
        x: Real field (B, *size, C), or complex field (B, *size, 2, C) with its parts on the second-to-last axis.
        bands: Frequencies of each axis.
        is_complex: Which of the two.
        backend: "auto", "dft" or "fft".
        size: If x already holds the coefficients along the last axis of a real field, as from `row_tables`, the points
            along each axis of that field: (B, *size[:-1], 2 * m, C). The other axes follow by "dft".

    Returns:
        (B, 2, *kept, C).
    """
    batch, chans = x.shape[0], x.shape[-1]
    begun = size is not None
    size = size or x.shape[1 : 1 + len(bands)]
    if begun or backend == "dft" or (backend == "auto" and uses_dft(size, bands, x, is_complex)) or batch == 0:
        done = bands[-1].count if begun else 1
        for axis in range(len(bands) - 1 - begun, -1, -1):
            half = axis == len(bands) - 1 and not is_complex
            n, band = size[axis], bands[axis]
            table = _table("analysis", n, band, half, x.dtype, x.device)
            rows = n if half else 2 * n
            x = torch.matmul(table, x.reshape(batch * math.prod(size[:axis]), rows, done * chans))
            done = done * band.count
        return x.reshape(batch, 2, *[band.count for band in bands], chans)
    dtype = x.dtype if x.dtype == torch.float64 else torch.float32
    x = x.to(dtype)
    last = len(bands)
    if is_complex:
        z = torch.view_as_complex(x.movedim(-2, -1).contiguous())
        z = _band_of(torch.fft.fft(z, dim=last, norm="forward"), last, bands[-1])
    else:
        z = torch.fft.rfft(x, dim=last, norm="forward").narrow(last, 0, bands[-1].count)
    for axis in range(last - 1, 0, -1):
        z = _band_of(torch.fft.fft(z, dim=axis, norm="forward"), axis, bands[axis - 1])
    return torch.view_as_real(z).movedim(-1, 1)


def _band_of(z: torch.Tensor, axis: int, band: Band) -> torch.Tensor:
    """The frequencies of a band, from the order of a fast transform."""
    n, negative = z.shape[axis], -band.low
    if negative == 0:
        return z.narrow(axis, 0, band.count)
    return torch.cat([z.narrow(axis, n - negative, negative), z.narrow(axis, 0, band.count - negative)], axis)


def _whole(z: torch.Tensor, axis: int, band: Band, n: int) -> torch.Tensor:
    """Undo `_band_of`, with zeros for the frequencies that are not there."""
    negative = -band.low
    shape = list(z.shape)
    shape[axis] = n - band.count
    parts = [z.narrow(axis, negative, band.count - negative), z.new_zeros(shape), z.narrow(axis, 0, negative)]
    return torch.cat(parts, axis)


def resample(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Trigonometric interpolation of a periodic real field onto another grid, exact if the grids resolve it.

    Args:
        x: (B, *size, C).
        size: Points along each axis of the result.

    Returns:
        (B, *size, C).
    """
    old, new = tuple(x.shape[1:-1]), tuple(size)
    if old == new:
        return x
    fewer = [min(pair) for pair in zip(old, new, strict=True)]
    bands = kept_bands(fewer, fewer)
    z = analyse(x, bands)
    if new[-1] > old[-1] and old[-1] % 2 == 0:  # on the old grid the last frequency stood for both its signs
        once = torch.ones(bands[-1].count, 1, dtype=z.dtype, device=z.device)
        once[-1] = 0.5
        z = z * once
    return synthesise(z, new, bands)


def synthesise(
    z: torch.Tensor,
    size: Sequence[int],
    bands: Sequence[Band],
    is_complex: bool = False,
    backend: Backend = "auto",
    but_last: bool = False,
) -> torch.Tensor:
    """Compute the field with the given coefficients; for a real field, its real part.

    Args:
        z: (B, 2, *kept, C).
        size: Points along each axis of the result.
        bands: Frequencies of each axis, which the new grid must have.
        is_complex: Whether the field is complex.
        backend: "auto", "dft" or "fft".
        but_last: Leave out the last axis of a real field, and use "dft" for the others.

    Returns:
        (B, *size, C), or (B, *size, 2, C) if complex; with `but_last` (B, *size[:-1], 2 * m, C), see `row_tables`.
    """
    batch, chans = z.shape[0], z.shape[-1]
    if but_last or backend == "dft" or (backend == "auto" and uses_dft(size, bands, z, is_complex)) or batch == 0:
        rest = math.prod([band.count for band in bands])
        for axis, (n, band) in enumerate(zip(size, bands, strict=True)):
            if but_last and axis == len(bands) - 1:
                return z.reshape(batch, *size[:-1], 2 * band.count, chans)
            half = axis == len(bands) - 1 and not is_complex
            rest = rest // band.count
            table = _table("synthesis", n, band, half, z.dtype, z.device)
            z = torch.matmul(table, z.reshape(batch * math.prod(size[:axis]), 2 * band.count, rest * chans))
        return z.reshape(batch, *size, *[2] * is_complex, chans)
    dtype = z.dtype if z.dtype == torch.float64 else torch.float32
    y = torch.view_as_complex(z.movedim(1, -1).to(dtype).contiguous())
    last = len(bands)
    for axis in range(1, last):
        y = torch.fft.ifft(_whole(y, axis, bands[axis - 1], size[axis - 1]), dim=axis, norm="forward")
    if is_complex:
        y = torch.fft.ifft(_whole(y, last, bands[-1], size[-1]), dim=last, norm="forward")
        return torch.view_as_real(y).movedim(-1, -2)
    if y.is_cuda:  # cuFFT does not ignore the imaginary parts that cannot be there
        real = torch.ones(bands[-1].count, 2, dtype=dtype, device=y.device)
        real[0, 1] = 0
        if 2 * (bands[-1].count - 1) == size[-1]:
            real[-1, 1] = 0
        y = torch.view_as_complex(torch.view_as_real(y) * real.unsqueeze(1))
    return torch.fft.irfft(y, n=size[-1], dim=last, norm="forward")
