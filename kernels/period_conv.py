r"""Two-dimensional convolutions over a series folded by its periods, the core of TimesNet.

With a period p, step t of a series is in row t // p and column t % p of an image with n = ceil(T / p) rows. The
operation folds a series by each of its k periods, applies

    y_p = w2 * gelu(w1 * x_p + b1) + b2        (`same` zero padding, square odd kernels of size K = 2 h + 1)

to each image, unfolds it, cuts it to T steps and returns the weighted sum over the periods. The zero-padded tail of the
last row takes part in the second convolution with its non-zero intermediate values, as in the original code.

    x: (B, T, C) float, periods: (k,) or (B, k) int64, weights: (B, k), w1: (F, C, K, K), w2: (C, F, K, K) -> (B, T, C)

Cost of one period: 2 K^2 C F multiply-adds per step; bytes: x, y and the weights once, and the (B, F, T) intermediate
twice. Three forms compute it:

* `period_conv_folded` folds the series in memory. The periods become Python integers, so that each image has its true
  shape and kernel taps that can only meet zero padding are cut off: |row| >= n or |column| >= p. It is for a CPU, where
  reading the periods costs nothing. Equal periods are convolved once.
* `period_conv_gathered` has shapes that depend on T alone: rows follow one another with h zeros between them, the K
  rows around each position are gathered, and one convolution with stride K over that axis does the rest for all periods
  together. No value of `periods` reaches the host, so it neither synchronises a device nor breaks a `torch.compile` or
  `torch.export` graph.
* `period_conv_fused` convolves the series itself, by the Triton kernels of `blockzoo.kernels.fold_conv`: one launch for
  each of the two convolutions, whatever the periods.

Source: "TimesNet: Temporal 2D-Variation Modeling for General Time Series Analysis" (2023), section 3.2.
"""

import torch
import torch.nn.functional as F

from blockzoo.kernels._dispatch import autocast_dtype, use_kernel
from blockzoo.kernels.fold_conv import fold_conv

__all__ = ["period_candidates", "period_conv", "period_conv_folded", "period_conv_fused", "period_conv_gathered"]


def period_candidates(num_steps: int) -> list[int]:
    """All periods that a series of `num_steps` steps can have: num_steps // f for f = 1 .. num_steps // 2."""
    return sorted({num_steps // frequency for frequency in range(1, num_steps // 2 + 1)})


def period_conv(
    x: torch.Tensor,
    periods: torch.Tensor,
    weights: torch.Tensor,
    w1: torch.Tensor,
    b1: torch.Tensor,
    w2: torch.Tensor,
    b2: torch.Tensor,
) -> torch.Tensor:
    """Weighted sum over periods of conv - GELU - conv on the folded series.

    It does not work under `torch.vmap`, because on a CPU it reads the periods on the host.

    Args:
        x: Series, (B, T, C).
        periods: Periods in steps, int64, (k,) for the whole batch or (B, k) for each sample; members of
            `period_candidates(T)`.
        weights: Weight of each period in the sum, (B, k).
        w1: First kernel, (F, C, K, K) with K odd.
        b1: First bias, (F,).
        w2: Second kernel, (C, F, K, K).
        b2: Second bias, (C,).

    Returns:
        (B, T, C), in the dtype of the convolutions.
    """
    if use_kernel("fold_conv", x):
        return period_conv_fused(x, periods, weights, w1, b1, w2, b2)
    host_periods = x.device.type == "cpu" and not (torch.compiler.is_compiling() or torch.jit.is_tracing())
    form = period_conv_folded if host_periods else period_conv_gathered
    return form(x, periods, weights, w1, b1, w2, b2)


def _crop(weight: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Cut off the taps that are outside an image of rows x columns at every position of the kernel."""
    half = weight.shape[-1] // 2
    row, column = min(half, rows - 1), min(half, columns - 1)
    return weight[..., half - row : half + row + 1, half - column : half + column + 1]


def _conv_image(
    x: torch.Tensor, period: int, w1: torch.Tensor, b1: torch.Tensor, w2: torch.Tensor, b2: torch.Tensor
) -> torch.Tensor:
    batch, steps, chans = x.shape
    rows = -(-steps // period)
    tail = rows * period - steps
    image = (F.pad(x, (0, 0, 0, tail)) if tail else x).reshape(batch, rows, period, chans).permute(0, 3, 1, 2)
    w1, w2 = _crop(w1, rows, period), _crop(w2, rows, period)
    padding = (w1.shape[-2] // 2, w1.shape[-1] // 2)
    image = F.conv2d(F.gelu(F.conv2d(image, w1, b1, padding=padding)), w2, b2, padding=padding)
    return image.permute(0, 2, 3, 1).reshape(batch, rows * period, -1)[:, :steps]


def period_conv_folded(
    x: torch.Tensor,
    periods: torch.Tensor,
    weights: torch.Tensor,
    w1: torch.Tensor,
    b1: torch.Tensor,
    w2: torch.Tensor,
    b2: torch.Tensor,
) -> torch.Tensor:
    """`period_conv` with one image shape per distinct period; reads the periods on the host."""
    weights = weights.to(autocast_dtype(x))
    total: torch.Tensor | None = None
    if periods.ndim == 1:
        places: dict[int, list[int]] = {}
        for place, period in enumerate(periods.tolist()):
            places.setdefault(period, []).append(place)
        for period, columns in places.items():
            weight = weights[:, columns[0], None, None]
            for column in columns[1:]:
                weight = weight + weights[:, column, None, None]
            image = _conv_image(x, period, w1, b1, w2, b2)
            total = image * weight if total is None else torch.addcmul(total, image, weight)
    else:
        for period in periods.unique().tolist():
            chosen = periods == period
            rows = chosen.any(1).nonzero().squeeze(1)
            weight = torch.where(chosen, weights, 0).sum(1)[rows, None, None]
            image = _conv_image(x[rows], period, w1, b1, w2, b2) * weight
            if total is None:
                total = image.new_zeros(x.shape[0], x.shape[1], image.shape[2])
            total = total.index_add(0, rows, image)
    assert total is not None
    return total


def period_conv_gathered(
    x: torch.Tensor,
    periods: torch.Tensor,
    weights: torch.Tensor,
    w1: torch.Tensor,
    b1: torch.Tensor,
    w2: torch.Tensor,
    b2: torch.Tensor,
) -> torch.Tensor:
    """`period_conv` with shapes that depend only on the length of the series; differentiable on every device.

    Memory: K / T * max_p n (p + h) times that of x, at most about 3.5 K for T of a few hundred.
    """
    batch, steps, _ = x.shape
    size = w1.shape[-1]
    half = size // 2
    slots = max(-(-steps // period) * (period + half) for period in period_candidates(steps))

    p = periods.reshape(-1, periods.shape[-1], 1)  # (1 or B, k, 1)
    rows = _quotient(steps + p - 1, p)
    slot = torch.arange(slots, device=x.device)
    row = _quotient(slot, p + half)
    column = slot - row * (p + half)
    inside = (row < rows) & (column < p)  # (1 or B, k, slots)

    # Rows around each slot: (1 or B, k, K, slots); what lies outside reads the zero appended after the data.
    near = row[:, :, None] + torch.arange(-half, half + 1, device=x.device)[:, None]
    near_inside = inside[:, :, None] & (near >= 0) & (near < rows[..., None])
    step = near * p[..., None] + column[:, :, None]
    source = torch.where(near_inside & (step < steps), step, steps)
    hidden = _gather_conv(x.transpose(1, 2), source, w1, b1)
    hidden = torch.where(inside[:, None], F.gelu(hidden), 0)  # (B, F, k, slots)

    offset = slots * torch.arange(p.shape[1], device=x.device)[:, None, None]
    source = torch.where(near_inside, offset + near * (p + half)[..., None] + column[:, :, None], slots * p.shape[1])
    image = _gather_conv(hidden.flatten(2), source, w2, b2)  # (B, C, k, slots)

    time = torch.arange(steps, device=x.device)
    slot_of_time = time + _quotient(time, p) * half
    index = slot_of_time[:, None].expand(batch, image.shape[1], -1, -1)
    return torch.einsum("bckt,bk->btc", image.gather(3, index), weights.to(image.dtype))


def _quotient(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Integers x // y for x >= 0, y > 0 and x below 2**50.

    Vector loops from AOTInductor also compute in lanes beyond the end, which hold 0. There, an integer division stops
    the program; this function does not.
    """
    return ((x + 0.5) / y.double()).floor().long()


def period_conv_fused(
    x: torch.Tensor,
    periods: torch.Tensor,
    weights: torch.Tensor,
    w1: torch.Tensor,
    b1: torch.Tensor,
    w2: torch.Tensor,
    b2: torch.Tensor,
) -> torch.Tensor:
    """`period_conv` by the operator `fold_conv`; shapes depend only on the length of the series.

    Memory: the intermediate, (B, k, S, F) for images of up to S < 2 T slots, and nothing of the kernel's size.
    """
    batch, steps, _ = x.shape
    slots = max(-(-steps // period) * period for period in period_candidates(steps))
    periods = periods.expand(batch, -1)
    dtype = autocast_dtype(x)
    x, w1, b1, w2, b2 = (tensor.to(dtype) for tensor in (x, w1, b1, w2, b2))
    series = x.unsqueeze(1).expand(-1, periods.shape[1], -1, -1)
    hidden = F.gelu(fold_conv(series, w1.permute(2, 3, 1, 0), b1, periods, steps, slots))
    image = fold_conv(hidden, w2.permute(2, 3, 1, 0), b2, periods, steps, steps)
    return torch.einsum("bktc,bk->btc", image, weights.to(dtype))


def _gather_conv(x: torch.Tensor, source: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Gather (B, C, L) at `source` (1 or B, k, K, slots), where L reads a zero, and convolve to (B, C', k, slots)."""
    size = weight.shape[-1]
    index = source.flatten(1)[:, None].expand(x.shape[0], x.shape[1], -1)
    window = F.pad(x, (0, 1)).gather(2, index).unflatten(2, (source.shape[1] * size, source.shape[3]))
    return F.conv2d(window, weight, bias, stride=(size, 1), padding=(0, size // 2))
