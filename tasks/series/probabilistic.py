"""Metrics of probabilistic forecasts, and samples drawn from forecast quantiles.

Quantiles and samples lie along an axis of their own, by default the second: a forecast (B, Q, steps, channels) belongs
to a target (B, steps, channels).

Sources: Koenker and Bassett, "Regression Quantiles" (1978), for the pinball loss; Gneiting and Raftery, "Strictly
Proper Scoring Rules, Prediction, and Estimation" (2007), for the CRPS and the interval score; Ferro, "Fair scores for
ensemble forecasts" (2014), for the fair CRPS; Makridakis, Spiliotis and Assimakopoulos, "The M5 Uncertainty
competition" (2022), and GluonTS for the weighted quantile loss; Gneiting, Balabdaoui and Raftery, "Probabilistic
forecasts, calibration and sharpness" (2007), for calibration.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import torch

from blockzoo.layers.series.quantiles import check_levels

__all__ = [
    "central_pairs",
    "crps_from_quantiles",
    "crps_from_samples",
    "empirical_quantiles",
    "interval_coverage",
    "interval_score",
    "interval_width",
    "observed_levels",
    "pinball_loss",
    "sample_quantiles",
    "weighted_quantile_loss",
]


def central_pairs(levels: Sequence[float]) -> dict[float, tuple[int, int]]:
    """The central intervals that quantile levels bound.

    Args:
        levels: Increasing numbers between 0 and 1.

    Returns:
        By nominal coverage, widest last: the places of its lower and upper level.
    """
    exact = [Fraction(str(level)) for level in levels]
    found = {}
    for low in reversed(range(len(exact))):
        if exact[low] < Fraction(1, 2) and 1 - exact[low] in exact:
            found[float(1 - 2 * exact[low])] = (low, exact.index(1 - exact[low]))
    return found


def _levels(levels: Sequence[float] | torch.Tensor, like: torch.Tensor, dim: int) -> torch.Tensor:
    """Levels as a tensor that broadcasts along `dim` of a forecast."""
    values = torch.as_tensor(levels, dtype=like.dtype, device=like.device)
    if values.ndim != 1 or values.shape[0] != like.shape[dim]:
        raise ValueError(f"{values.numel()} levels do not fit a forecast of {like.shape[dim]} quantiles on axis {dim}")
    shape = [1] * like.ndim
    shape[dim] = -1
    return values.view(shape)


def pinball_loss(
    quantiles: torch.Tensor, target: torch.Tensor, levels: Sequence[float] | torch.Tensor, dim: int = 1
) -> torch.Tensor:
    """Pinball loss of forecast quantiles: level * (y - q) where y is above q, (1 - level) * (q - y) below.

    Args:
        quantiles: Forecasts, with the quantiles on axis `dim`.
        target: Of the same shape without that axis.
        levels: Of the quantiles, (Q,).
        dim: The axis of the quantiles.

    Returns:
        The loss of each quantile, in the shape of `quantiles`.

    Raises:
        ValueError: There are more or fewer levels than quantiles.
    """
    tau = _levels(levels, quantiles, dim)
    error = target.unsqueeze(dim) - quantiles
    return torch.maximum(tau * error, (tau - 1) * error)


def crps_from_quantiles(
    quantiles: torch.Tensor, target: torch.Tensor, levels: Sequence[float] | torch.Tensor, dim: int = 1
) -> torch.Tensor:
    """Continuous ranked probability score from quantiles: twice their mean pinball loss, in the shape of `target`.

    It approaches the CRPS as evenly spread levels become dense; of few levels it is a score in its own right.

    Args:
        quantiles: Forecasts, with the quantiles on axis `dim`.
        target: Of the same shape without that axis.
        levels: Of the quantiles, (Q,).
        dim: The axis of the quantiles.
    """
    return 2 * pinball_loss(quantiles, target, levels, dim).mean(dim)


def crps_from_samples(samples: torch.Tensor, target: torch.Tensor, fair: bool = False, dim: int = 1) -> torch.Tensor:
    """Continuous ranked probability score of samples: E|X - y| - E|X - X'| / 2, in the shape of `target`.

    Args:
        samples: Forecasts, with the samples on axis `dim`.
        target: Of the same shape without that axis.
        fair: Leave the pairs of a sample with itself out of the second mean, so that the number of samples does not
            bias the score; needs two samples.
        dim: The axis of the samples.

    Raises:
        ValueError: There is no sample, or a fair score is asked of one.
    """
    count = samples.shape[dim]
    if count < (2 if fair else 1):
        raise ValueError(f"samples has {count} on axis {dim}; {'a fair score' if fair else 'it'} needs {1 + fair}")
    distance = (samples - target.unsqueeze(dim)).abs().mean(dim)
    ordered = samples.sort(dim).values
    weight = torch.arange(1 - count, count, 2, dtype=samples.dtype, device=samples.device)  # 2 i - count - 1, i from 1
    spread = (ordered.movedim(dim, -1) * weight).sum(-1)
    return distance - spread / (count * (count - 1) if fair else count**2)


def weighted_quantile_loss(
    quantiles: torch.Tensor,
    target: torch.Tensor,
    levels: Sequence[float] | torch.Tensor,
    mask: torch.Tensor | None = None,
    dim: int = 1,
) -> torch.Tensor:
    """Weighted quantile loss: twice the sum of the pinball losses over the sum of |target|, for each level (Q,).

    Its mean over the levels is what GluonTS calls `mean_wQuantileLoss`. NaN where all targets are 0.

    Args:
        quantiles: Forecasts, with the quantiles on axis `dim`.
        target: Of the same shape without that axis.
        levels: Of the quantiles, (Q,).
        mask: 1 where a target counts, in the shape of `target`; all by default.
        dim: The axis of the quantiles.
    """
    loss = pinball_loss(quantiles, target, levels, dim).movedim(dim, 0)
    size = target.abs()
    if mask is not None:
        loss, size = (torch.where(mask != 0, values, 0) for values in (loss, size))
    total = size.sum()
    return 2 * loss.flatten(1).sum(1) / torch.where(total > 0, total, torch.nan)


def _mean(values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Mean over the values that count; NaN if there is none."""
    if mask is None:
        return values.mean()
    seen = mask != 0
    return torch.where(seen, values, 0).sum() / seen.sum()


def interval_coverage(
    lower: torch.Tensor, upper: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Share of the targets that lie in their intervals, bounds included.

    Args:
        lower: Lower bounds, in the shape of `target`.
        upper: Upper bounds, in the shape of `target`.
        target: What came.
        mask: 1 where a target counts; all by default.
    """
    return _mean(((lower <= target) & (target <= upper)).to(target.dtype), mask)


def interval_width(lower: torch.Tensor, upper: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Mean width of intervals.

    Args:
        lower: Lower bounds.
        upper: Upper bounds, in the same shape.
        mask: 1 where an interval counts; all by default.
    """
    return _mean(upper - lower, mask)


def interval_score(lower: torch.Tensor, upper: torch.Tensor, target: torch.Tensor, coverage: float) -> torch.Tensor:
    """Interval (Winkler) score: the width, and for a target outside 2 / (1 - coverage) times its distance.

    Args:
        lower: Lower bounds, in the shape of `target`.
        upper: Upper bounds, in the shape of `target`.
        target: What came.
        coverage: Nominal coverage, from 0 to below 1.

    Returns:
        For each target, the less the better.
    """
    if not 0 <= coverage < 1:
        raise ValueError(f"coverage={coverage} must be from 0 to below 1")
    outside = (lower - target).clamp(min=0) + (target - upper).clamp(min=0)
    return upper - lower + outside * (2 / (1 - coverage))


def observed_levels(
    quantiles: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None = None, dim: int = 1
) -> torch.Tensor:
    """Share of the targets at or below each forecast quantile, (Q,): the quantiles' levels, if they are calibrated.

    Args:
        quantiles: Forecasts, with the quantiles on axis `dim`.
        target: Of the same shape without that axis.
        mask: 1 where a target counts, in the shape of `target`; all by default.
        dim: The axis of the quantiles.
    """
    below = (target.unsqueeze(dim) <= quantiles).to(quantiles.dtype).movedim(dim, 0)
    return torch.stack([_mean(values, mask) for values in below])


def sample_quantiles(
    quantiles: torch.Tensor,
    levels: Sequence[float],
    count: int,
    generator: torch.Generator | None = None,
    dim: int = 1,
    shared: Sequence[int] = (),
) -> torch.Tensor:
    """Draw samples from the distributions that quantiles describe.

    Between levels the quantile function is linear; beyond the outermost ones it has exponential tails through the two
    outermost quantiles. Each entry is drawn by itself: quantiles say nothing of how steps depend on each other. Axes in
    `shared` get one draw, as if their entries rose and fell together.

    Args:
        quantiles: Forecasts, with the quantiles, which must not decrease, on axis `dim`.
        levels: At least two, increasing between 0 and 1.
        count: Samples of each entry.
        generator: Random state, on the CPU.
        dim: The axis of the quantiles.
        shared: Axes of `quantiles` along which all entries take the same draw.

    Returns:
        Samples, with an axis of `count` in the place of the quantiles.

    Raises:
        ValueError: There are fewer than two levels, or fewer than one sample.
    """
    tau = torch.tensor(check_levels(levels, "levels", median=False), dtype=torch.float64)
    if len(tau) < 2 or len(tau) != quantiles.shape[dim]:
        raise ValueError(f"{len(tau)} levels for {quantiles.shape[dim]} quantiles; sampling needs two or more of each")
    if count < 1:
        raise ValueError(f"count={count} must be at least 1")
    own = quantiles.movedim(dim, -1)
    axes = [axis if axis < dim else axis - 1 for axis in (axis % quantiles.ndim for axis in shared)]
    sizes = [1 if axis in axes else size for axis, size in enumerate(own.shape[:-1])]
    u = torch.rand((*sizes, count), generator=generator, dtype=torch.float64).clamp(min=1e-12)
    place = torch.searchsorted(tau, u).clamp(1, len(tau) - 1)  # the right end of the segment, or the outermost one
    low, high = tau[place - 1], tau[place]
    share = (u - low) / (high - low)
    # below the first level q0 + (q1 - q0) * log(u / t0) / log(t1 / t0); above the last one its mirror image
    left = (u / tau[0]).log() / (tau[1] / tau[0]).log()
    right = 1 - ((1 - u) / (1 - tau[-1])).log() / ((1 - tau[-2]) / (1 - tau[-1])).log()
    share = torch.where(u < tau[0], left, torch.where(u > tau[-1], right, share))
    place, share = (part.to(quantiles.device).expand(*own.shape[:-1], count) for part in (place, share))
    lower, upper = own.gather(-1, place - 1), own.gather(-1, place)
    return (lower + share.to(own.dtype) * (upper - lower)).movedim(-1, dim)


def empirical_quantiles(samples: np.ndarray, levels: Sequence[float], axis: int = 0) -> np.ndarray:
    """Quantiles of samples by linear interpolation, with the levels on the axis of the samples.

    Args:
        samples: Numbers, with the samples on `axis`.
        levels: Between 0 and 1.
        axis: The axis of the samples.
    """
    return np.moveaxis(np.quantile(samples, np.asarray(levels), axis=axis), 0, axis)
