"""Embedding of multivariate series: values, position and calendar features."""

import math
from typing import Any

import torch
from torch import nn

__all__ = ["TIME_FREQS", "SeriesEmbedding", "sinusoidal_positions"]

TIME_FREQS = {"m": 1, "w": 2, "d": 3, "h": 4, "t": 5, "s": 6}
"""Number of calendar features at a sampling frequency: monthly, weekly, daily, hourly, by the minute, by the second."""


def sinusoidal_positions(num_steps: int, dim: int) -> torch.Tensor:
    """Sinusoidal position table, float64 (num_steps, dim); even columns sine, odd columns cosine.

    Source: "Attention Is All You Need" (2017), section 3.5.
    """
    rates = torch.exp(torch.arange(0, dim, 2, dtype=torch.float64) * (-math.log(10000.0) / dim))
    angles = torch.arange(num_steps, dtype=torch.float64)[:, None] * rates
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)[:, :dim]


class SeriesEmbedding(nn.Module):
    """Circular convolution of width 3 over the values, plus position, plus a linear map of calendar features.

    Source: "TimesNet: Temporal 2D-Variation Modeling for General Time Series Analysis" (2023) and its code
    (`DataEmbedding` with `timeF` features), whose initialisation this keeps.

    Args:
        in_chans: Channels of the series.
        dim: Width of the embedding.
        num_steps: Length of the series.
        time_freq: Sampling frequency, a key of `TIME_FREQS`, which sets the number of calendar features; None for an
            embedding without them.
        drop_rate: Dropout probability on the result.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ValueError: `time_freq` is not a key of `TIME_FREQS`.
    """

    positions: torch.Tensor

    def __init__(
        self,
        in_chans: int,
        dim: int,
        num_steps: int,
        time_freq: str | None = None,
        drop_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        if time_freq is not None and time_freq not in TIME_FREQS:
            raise ValueError(f"time_freq={time_freq!r} must be one of {', '.join(TIME_FREQS)}, or None")
        self.num_time_features = TIME_FREQS[time_freq] if time_freq is not None else 0
        self.value = nn.Conv1d(in_chans, dim, 3, bias=False, **dd)
        nn.init.kaiming_normal_(self.value.weight, mode="fan_in", nonlinearity="leaky_relu")
        self.time = nn.Linear(self.num_time_features, dim, bias=False, **dd) if time_freq is not None else None
        positions = sinusoidal_positions(num_steps, dim).to(device, dtype or torch.get_default_dtype())
        self.register_buffer("positions", positions, persistent=False)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: torch.Tensor, time_features: torch.Tensor | None = None) -> torch.Tensor:
        """Embed a series.

        Args:
            x: Values, (B, T, in_chans).
            time_features: Calendar features, (B, T, num_time_features), each in [-0.5, 0.5]; left out when None.

        Returns:
            (B, T, dim).

        Raises:
            ValueError: `time_features` do not fit the frequency or the series.
        """
        ring = torch.cat((x[:, -1:], x, x[:, :1]), dim=1)
        y = self.value(ring.transpose(1, 2)).transpose(1, 2) + self.positions
        if time_features is not None:
            expected = (x.shape[0], x.shape[1], self.num_time_features)
            if self.time is None or tuple(time_features.shape) != expected:
                raise ValueError(f"time_features has shape {tuple(time_features.shape)}, expected {expected}")
            y = y + self.time(time_features)
        return self.drop(y)
