"""Measures of the benchmarks PDEBench and the Well, in their definitions.

Fields are (B, C, *size); a mask (B, 1, *size) or (1, *size) says which points count. PDEBench: "PDEBench: An Extensive
Benchmark for Scientific Machine Learning" (2022), appendix B; the Well: "The Well: a Large-Scale Collection of Diverse
Physics Simulations for Machine Learning" (2024), section 5. The nRMSE of PDEBench is the relative L2 error, see
`blockzoo.tasks.fields.losses.LpLoss`.
"""

import math
from collections.abc import Sequence

import torch

from blockzoo.tasks.fields.losses import axis_lengths, masked

__all__ = [
    "boundary_rmse",
    "fourier_rmse",
    "fourier_shells",
    "max_error",
    "mean_error",
    "rmse",
    "spectral_nrmse",
    "vector_l2",
    "vrmse",
]

BANDS = ("low", "mid", "high")


def _points(x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Points that count, one number or (B, 1)."""
    if mask is None:
        return torch.tensor(float(math.prod(x.shape[2:])), device=x.device)
    mask = mask if mask.ndim == x.ndim else mask.unsqueeze(0)
    return mask.flatten(2).sum(-1).clamp(min=1).to(x.dtype)


def _mean(x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    return masked(x, mask).flatten(2).sum(-1) / _points(x, mask)


def rmse(pred: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Root of the mean squared error over space, (B, C)."""
    return _mean((pred - target).square(), mask).sqrt()


def vrmse(pred: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None = None, eps: float = 0.0) -> torch.Tensor:
    """The Well's variance-scaled error: root of the mean squared error over the target's variance, (B, C).

    A prediction of the mean has about 1. Fields that are constant over space have none, and are NaN.

    Args:
        pred: (B, C, *size).
        target: (B, C, *size).
        mask: Points that count.
        eps: Added to the variance; the Well adds 1e-7, which in small units makes errors too small.
    """
    points = _points(target, mask)
    centred = target - _mean(target, mask).reshape(*target.shape[:2], *[1] * (target.ndim - 2))
    variance = masked(centred.square(), mask).flatten(2).sum(-1) / (points - 1).clamp(min=1) + eps
    ratio = _mean((pred - target).square(), mask) / torch.where(variance > 0, variance, 1.0)
    return torch.where(variance > 0, ratio.sqrt(), torch.nan)


def max_error(pred: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Largest absolute error over space, (B, C)."""
    return masked((pred - target).abs(), mask).flatten(2).amax(-1)


def mean_error(pred: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Mean of the prediction minus that of the target, (B, C): what is lost or made of a conserved quantity.

    The root of its mean square over samples is PDEBench's cRMSE.
    """
    return _mean(pred - target, mask)


def boundary_rmse(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """PDEBench's bRMSE: root of the mean squared error over the faces of the domain, (B, C).

    Corners count once for every face they are on. In three dimensions PDEBench's own code adds up all channels; this
    function keeps them apart, as in one and two.
    """
    error, size = (pred - target).square(), pred.shape[2:]
    total, points = torch.zeros_like(error.flatten(2)[..., 0]), 0
    for axis, n in enumerate(size, start=2):
        for place in (0, n - 1):
            face = error.select(axis, place)
            total = total + (face.flatten(2).sum(-1) if len(size) > 1 else face)
        points += 2 * math.prod(size) // n
    return (total / points).sqrt()


def fourier_shells(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Squared Fourier coefficients of the error by wavenumber, (B, C, shells), as PDEBench counts them.

    In one dimension a shell is a frequency, 0 .. n // 2. In more, shell k sums over the frequencies from 0 up to below
    half the points of every axis whose length rounds down to k, and there are as many shells as half the shortest side.
    Coefficients are not divided by the number of points.
    """
    size, dims = pred.shape[2:], pred.ndim - 2
    error = pred - target
    if dims == 1:
        return torch.view_as_real(torch.fft.rfft(error, dim=2)).square().sum(-1)
    power = torch.view_as_real(torch.fft.fftn(error, dim=tuple(range(2, pred.ndim)))).square().sum(-1)
    for axis, n in enumerate(size, start=2):
        power = power.narrow(axis, 0, n // 2)
    squares = torch.zeros((), dtype=torch.double)
    for axis, n in enumerate(size):
        k = torch.arange(n // 2, dtype=torch.double).square()
        squares = squares + k.reshape([-1 if i == axis else 1 for i in range(dims)])
    shells = min(n // 2 for n in size)
    shell = squares.sqrt().floor().long().clamp(max=shells).flatten().to(pred.device)
    sums = power.new_zeros(*power.shape[:2], shells + 1)
    return sums.index_add(2, shell, power.flatten(2))[..., :shells]


def fourier_rmse(
    shells: torch.Tensor,
    size: Sequence[int],
    lengths: Sequence[float] | float = 1.0,
    edges: tuple[int, int] = (4, 12),
) -> torch.Tensor:
    """PDEBench's fRMSE in a low, a middle and a high band of frequencies, (C, 3).

    Args:
        shells: Means of `fourier_shells` over samples, (C, shells).
        size: Points along each axis.
        lengths: Length of the domain along each axis, or one number for all.
        edges: First shells of the middle and of the high band. A band without shells is NaN.
    """
    error = shells.sqrt() / math.prod(size) * math.prod(axis_lengths(lengths, len(size)))
    low, high = edges
    return torch.stack([part.mean(-1) for part in (error[:, :low], error[:, low:high], error[:, high:])], -1)


def spectral_nrmse(pred: torch.Tensor, target: torch.Tensor, eps: float = 0.0) -> torch.Tensor:
    """The Well's error by frequency: root of the error's energy over the target's, in three bands, (B, C, 3).

    Bands part the wavenumbers from 0 to the largest, pi sqrt(d), at equal ratios from 2 pi / longest side on. A band in
    which the target has no energy has no error, and is NaN.

    Args:
        pred: (B, C, *size).
        target: (B, C, *size).
        eps: Added to the target's energy; the Well adds 1e-7.
    """
    size, dims = pred.shape[2:], pred.ndim - 2
    squares = torch.zeros((), dtype=torch.double)
    for axis, n in enumerate(size):
        k = (2 * math.pi * torch.fft.fftfreq(n, dtype=torch.double)).square()
        squares = squares + k.reshape([-1 if i == axis else 1 for i in range(dims)])
    first, last = math.log10(2 * math.pi / max(size)), math.log10(math.pi * math.sqrt(dims) + 1e-6)
    edges = torch.logspace(first, last, 4, dtype=torch.double)
    edges[0] = 0
    # Wavenumbers of the grid that lie on an edge belong to the band above it.
    band = (torch.bucketize(squares.sqrt() * (1 + 1e-12), edges, right=True) - 1).clamp(max=2).flatten().to(pred.device)
    energies = []
    for field in (pred - target, target):
        spectrum = torch.fft.fftn(field, dim=tuple(range(2, pred.ndim)), norm="forward")
        power = torch.view_as_real(spectrum).square().sum(-1).flatten(2)
        energies.append(power.new_zeros(*power.shape[:2], 3).index_add(2, band, power))
    error, energy = energies[0], energies[1] + eps
    return torch.where(energy > 0, (error / torch.where(energy > 0, energy, 1.0)).sqrt(), torch.nan)


def vector_l2(
    pred: torch.Tensor, target: torch.Tensor, channels: Sequence[int], mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Relative L2 error of a vector field, all its components together, (B,).

    Unlike the mean over components, it does not change when the axes are turned.

    Args:
        pred: (B, C, *size).
        target: (B, C, *size).
        channels: Places of the components among the channels.
        mask: Points that count.
    """
    ours, theirs = pred[:, list(channels)], target[:, list(channels)]
    error = torch.linalg.vector_norm(masked(ours - theirs, mask).flatten(1), dim=1)
    norm = torch.linalg.vector_norm(masked(theirs, mask).flatten(1), dim=1)
    return torch.where(norm > 0, error / torch.where(norm > 0, norm, 1.0), torch.nan)
