"""Losses and measures for fields: relative norms, Sobolev norms, spectra.

Fields are (B, C, *size). Relative norms divide, for each sample and channel, by the norm of the target, and are then
averaged over the targets that are not 0 everywhere, so that neither the number of channels nor the size of a batch
changes a loss. A mask (B, 1, *size) or (1, *size) says which points count: with land and walls left out, neither what a
model predicts there nor what a file has there changes a loss.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

__all__ = ["H1Loss", "LpLoss", "SpectralH1Loss", "axis_lengths", "derivatives", "isotropic_spectrum", "masked"]

Reduction = Literal["mean", "sum", "none"]


def _reduce(values: torch.Tensor, reduction: Reduction) -> torch.Tensor:
    if reduction == "mean":
        return values.mean()
    return values.sum() if reduction == "sum" else values


def _relative(distance: torch.Tensor, norm: torch.Tensor, reduction: Reduction) -> torch.Tensor:
    """Distances (B, C) over the norms of the targets; targets that are 0 everywhere have none, and are left out."""
    known = norm > 0
    ratio = distance / torch.where(known, norm, 1.0)
    if reduction == "none":
        return torch.where(known, ratio, torch.nan)
    total = torch.where(known, ratio, 0.0).sum()
    return total if reduction == "sum" else total / known.sum().clamp(min=1)


def masked(x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """A field with 0 where the mask is false."""
    return x if mask is None else torch.where(mask, x, 0)


def _check_reduction(reduction: str) -> None:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction={reduction!r} must be 'mean', 'sum' or 'none'")


class LpLoss(nn.Module):
    """Distance in the p-norm over space.

    Relative: |pred - target|_p / |target|_p. A target that is 0 everywhere has no relative error: it is left out of the
    mean and the sum, and is NaN without reduction. (neuraloperator adds 1e-8 to the norm, which makes the error of such
    a target some 1e9, and that of fields in small units too small.)

    Absolute: the integral over a domain, (h^d sum |pred - target|^p) ^ (1 / p), where h^d is the volume of a grid cell.

    Args:
        p: Exponent.
        relative: Which of the two.
        measure: Length of the domain along each axis, a number or one for each axis; absolute only.
        reduction: Of the values (B, C): "mean", "sum" (as neuraloperator) or "none".

    Shape:
        Two fields (B, C, *size), and a mask or None -> a number, or (B, C).
    """

    def __init__(
        self,
        p: float = 2,
        relative: bool = True,
        measure: float | Sequence[float] = 1.0,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        _check_reduction(reduction)
        self.p, self.relative, self.measure, self.reduction = p, relative, measure, reduction

    def forward(self, pred: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """See the class."""
        distance = torch.linalg.vector_norm(masked(pred - target, mask).flatten(2), self.p, dim=-1)
        if self.relative:
            norm = torch.linalg.vector_norm(masked(target, mask).flatten(2), self.p, dim=-1)
            return _relative(distance, norm, self.reduction)
        return _reduce(distance * _cell(self.measure, pred.shape[2:]) ** (1 / self.p), self.reduction)


def _cell(measure: float | Sequence[float], size: Sequence[int]) -> float:
    """Volume of a grid cell."""
    return math.prod(length / n for length, n in zip(axis_lengths(measure, len(size)), size, strict=True))


def axis_lengths(measure: float | Sequence[float], dims: int) -> list[float]:
    """Length of the domain along each axis, given as one number for all or as one for each.

    Raises:
        ValueError: There is another number of them.
    """
    lengths = [float(measure)] * dims if isinstance(measure, int | float) else [float(length) for length in measure]
    if len(lengths) != dims:
        raise ValueError(f"measure={measure!r} must be one number or {dims}")
    return lengths


def derivatives(
    x: torch.Tensor, measure: float | Sequence[float] = 1.0, periodic: bool | Sequence[bool] = True
) -> list[torch.Tensor]:
    """First derivatives along each axis by central differences.

    Args:
        x: (B, C, *size), at least four points along a non-periodic axis.
        measure: Length of the domain along each axis; the spacing is length / points.
        periodic: Whether an axis closes; otherwise ends use one-sided differences of third order.

    Returns:
        One (B, C, *size) for each axis.

    Raises:
        ValueError: A non-periodic axis has fewer than four points, or the numbers do not fit the axes.
    """
    dims = x.ndim - 2
    closed = [periodic] * dims if isinstance(periodic, bool) else list(periodic)
    if len(closed) != dims:
        raise ValueError(f"periodic={periodic!r} must be one answer or {dims}")
    found = []
    for axis, (length, closes) in enumerate(zip(axis_lengths(measure, dims), closed, strict=True), start=2):
        h = length / x.shape[axis]
        if closes:
            found.append((x.roll(-1, axis) - x.roll(1, axis)) / (2 * h))
            continue
        n = x.shape[axis]
        if n < 4:
            raise ValueError(f"x of shape {tuple(x.shape)} needs at least 4 points along the non-periodic axis {axis}")
        inner = (x.narrow(axis, 2, n - 2) - x.narrow(axis, 0, n - 2)) / (2 * h)
        first = sum(c * x.narrow(axis, i, 1) for i, c in enumerate((-11, 18, -9, 2))) / (6 * h)
        last = sum(c * x.narrow(axis, n - 1 - i, 1) for i, c in enumerate((11, -18, 9, -2))) / (6 * h)
        found.append(torch.cat([first, inner, last], axis))  # type: ignore[list-item]
    return found


class H1Loss(nn.Module):
    """Distance in the first Sobolev norm, by finite differences: values and first derivatives have equal weight.

    On a domain of length 1 derivatives outweigh values by about (2 pi k)² for a wave with k periods. With a mask, a
    derivative counts where all points that its difference takes are inside.

    Args:
        relative: Divide by the target's norm.
        measure: Length of the domain along each axis, a number or one for each axis.
        periodic: Whether the axes close, one answer or one for each axis; for boundary values say False.
        reduction: As for `LpLoss`.

    Shape:
        Two fields (B, C, *size), and a mask or None -> a number, or (B, C).
    """

    def __init__(
        self,
        relative: bool = True,
        measure: float | Sequence[float] = 1.0,
        periodic: bool | Sequence[bool] = True,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        _check_reduction(reduction)
        self.relative, self.measure, self.periodic, self.reduction = relative, measure, periodic, reduction

    def _norm(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        # Over all terms at once; unlike a square root of sums, its gradient is 0 where two fields are equal.
        terms = [masked(x, mask), *derivatives(masked(x, mask), self.measure, self.periodic)]
        if mask is not None:
            hole = torch.where(mask if mask.ndim == x.ndim else mask.unsqueeze(0), 0.0, torch.nan)
            # A difference is NaN where it takes a point outside; at the point itself it may take none.
            inside = [d.isfinite() & mask for d in derivatives(hole, self.measure, self.periodic)]
            terms[1:] = [torch.where(known, term, 0) for known, term in zip(inside, terms[1:], strict=True)]
        return torch.linalg.vector_norm(torch.cat([term.flatten(2) for term in terms], -1), dim=-1)

    def forward(self, pred: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """See the class."""
        distance = self._norm(pred - target, mask)
        if self.relative:
            return _relative(distance, self._norm(target, mask), self.reduction)
        return _reduce(distance * math.sqrt(_cell(self.measure, pred.shape[2:])), self.reduction)


class SpectralH1Loss(nn.Module):
    """Relative distance in the first Sobolev norm of periodic fields, exact by Parseval's identity.

    |x|² = sum over k of (1 + weight * |2 pi k / length|²) |x_k|².

    Args:
        measure: Length of the domain along each axis.
        weight: Of the derivatives.
        reduction: As for `LpLoss`.

    Shape:
        Two real fields (B, C, *size) -> a number, or (B, C).
    """

    def __init__(
        self, measure: float | Sequence[float] = 1.0, weight: float = 1.0, reduction: Reduction = "mean"
    ) -> None:
        super().__init__()
        _check_reduction(reduction)
        self.measure, self.weight, self.reduction = measure, weight, reduction

    def _norm(self, x: torch.Tensor) -> torch.Tensor:
        size = x.shape[2:]
        spectrum = torch.fft.rfftn(x, dim=tuple(range(2, x.ndim)), norm="forward")
        squared, twice = _wave_squares(size, axis_lengths(self.measure, len(size)), x)
        weights = torch.sqrt(twice * (1 + self.weight * squared))
        return torch.linalg.vector_norm((torch.view_as_real(spectrum) * weights.unsqueeze(-1)).flatten(2), dim=-1)

    def forward(self, pred: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """See the class; a mask is refused, since masked fields are not periodic."""
        if mask is not None:
            raise ValueError("loss='spectral_h1' needs fields that are known everywhere; with a mask use 'h1' or 'l2'")
        return _relative(self._norm(pred - target), self._norm(target), self.reduction)


def _wave_squares(
    size: Sequence[int], lengths: Sequence[float], like: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """|2 pi k / length|² for every entry of a real transform, and how often the entry stands in the whole one."""
    squared = torch.zeros((), dtype=like.dtype, device=like.device)
    for axis, (n, length) in enumerate(zip(size, lengths, strict=True)):
        last = axis == len(size) - 1
        k = torch.arange(n // 2 + 1) if last else torch.fft.fftfreq(n, 1 / n)
        wave = (2 * math.pi / length * k.to(like)) ** 2
        squared = squared + wave.reshape([-1 if i == axis else 1 for i in range(len(size))])
    twice = torch.full((size[-1] // 2 + 1,), 2.0, dtype=like.dtype, device=like.device)
    twice[0] = 1
    if size[-1] % 2 == 0:
        twice[-1] = 1
    return squared, twice


def isotropic_spectrum(x: torch.Tensor) -> torch.Tensor:
    """Energy of fields by wavenumber: half the sum of |x_k|² over shells round(|k|) = 0, 1, .., shortest side // 2.

    Args:
        x: Real, (B, C, *size), on a domain of equal sides.

    Returns:
        (B, C, shells); without what lies beyond the last shell, its sum is half the mean square of the field.
    """
    size = x.shape[2:]
    spectrum = torch.fft.rfftn(x, dim=tuple(range(2, x.ndim)), norm="forward")
    power = torch.view_as_real(spectrum).square().sum(-1)
    squared, twice = _wave_squares(size, [2 * math.pi] * len(size), x)
    shells = min(size) // 2 + 1
    shell = torch.sqrt(squared).round().long().clamp(max=shells)
    energy = (0.5 * power * twice).flatten(2)
    sums = energy.new_zeros(*energy.shape[:2], shells + 1)
    sums.index_add_(2, shell.flatten(), energy)
    return sums[..., :shells]
