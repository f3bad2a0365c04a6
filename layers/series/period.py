"""Period search and the two-dimensional block of TimesNet."""

from typing import Any, Literal

import torch
from torch import nn

from blockzoo.kernels.period_conv import period_conv
from blockzoo.layers.conv.inception_conv import InceptionConv2d

__all__ = ["PeriodBlock", "PeriodScope", "find_periods"]

PeriodScope = Literal["batch", "sample"]


def find_periods(x: torch.Tensor, top_k: int, scope: PeriodScope = "batch") -> tuple[torch.Tensor, torch.Tensor]:
    """Strongest periods of a series by the amplitude of its real Fourier transform.

    The zero frequency is left out. The result's shapes depend only on those of `x` and `top_k`, and no value is read on
    the host. The transform runs in float32 or better, autocast or not.

    Source: "TimesNet: Temporal 2D-Variation Modeling for General Time Series Analysis" (2023), equations 1 and 2.

    Args:
        x: Series, (B, T, C).
        top_k: Number of periods, at most T // 2.
        scope: "batch": frequencies with the largest amplitude averaged over the batch, shared by all samples (the
            published rule, by which a sample's output depends on its batch companions). "sample": frequencies of each
            sample by itself.

    Returns:
        Periods in steps, T // frequency, int64, (top_k,) or (B, top_k); and the amplitude of each at each sample,
        averaged over channels, (B, top_k), differentiable.

    Raises:
        ValueError: `top_k` is larger than the number of frequencies, or `scope` is unknown.
    """
    steps = x.shape[1]
    if not 1 <= top_k <= steps // 2:
        raise ValueError(f"top_k={top_k} must be from 1 to {steps // 2}, half of the {steps} steps of the series")
    if scope not in ("batch", "sample"):
        raise ValueError(f"scope={scope!r} must be 'batch' or 'sample'")
    wide = x if x.dtype == torch.float64 else x.float()
    amplitude = torch.fft.rfft(wide.mT)[..., 1:].abs().mean(1)  # (B, T // 2)
    if scope == "batch":
        index = amplitude.detach().mean(0).topk(top_k).indices
        return torch.full_like(index, steps) // (index + 1), amplitude[:, index]
    index = amplitude.detach().topk(top_k, dim=1).indices
    return torch.full_like(index, steps) // (index + 1), amplitude.gather(1, index)


class PeriodBlock(nn.Module):
    """Fold a series by its strongest periods, convolve each image, and mix the results.

    out = sum_j softmax(amplitude)_j * unfold(conv2(gelu(conv1(fold(x, period_j))))); the caller adds the residual.

    Source: "TimesNet: Temporal 2D-Variation Modeling for General Time Series Analysis" (2023), equations 3 to 6.

    Args:
        dim: Channels of the series.
        hidden_dim: Channels between the two convolutions.
        top_k: Number of periods.
        num_kernels: Branches of each inception convolution.
        period_scope: See `find_periods`.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        top_k: int = 5,
        num_kernels: int = 6,
        period_scope: PeriodScope = "batch",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.top_k = top_k
        self.period_scope: PeriodScope = period_scope
        self.conv1 = InceptionConv2d(dim, hidden_dim, num_kernels, **dd)
        self.conv2 = InceptionConv2d(hidden_dim, dim, num_kernels, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, T, dim) to (B, T, dim), T at least 2 * top_k."""
        periods, amplitude = find_periods(x, self.top_k, self.period_scope)
        weights = amplitude.softmax(1).to(x.dtype)
        return period_conv(x, periods, weights, *self.conv1.merged(), *self.conv2.merged())

    def extra_repr(self) -> str:
        """The settings that are not visible in the children."""
        return f"top_k={self.top_k}, period_scope={self.period_scope!r}"
