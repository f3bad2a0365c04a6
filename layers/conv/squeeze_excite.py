"""Squeeze-and-excitation of channels, of space, and of both at once.

Sources: "Squeeze-and-Excitation Networks" (2018), equations 2 to 4, for channels; "Concurrent Spatial and Channel
Squeeze & Excitation in Fully Convolutional Networks" (2018), equations 2 to 5, for space and for both.
"""

from typing import Any

import torch
from timm.layers import make_divisible
from torch import nn

__all__ = ["ChannelSE", "ConcurrentSE", "SpatialSE", "create_se"]


class ChannelSE(nn.Module):
    """cSE: weigh each channel by a gate that sees the mean of every channel.

    Args:
        chans: Channels.
        rd_ratio: Width of the hidden layer as a share of `chans`, rounded to a multiple of 8.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Shape:
        (B, chans, *space) -> the same, in 2-D or 3-D.
    """

    def __init__(
        self,
        chans: int,
        rd_ratio: float = 1 / 16,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        hidden = int(make_divisible(chans * rd_ratio, 8, round_limit=0.0))
        self.fc1 = nn.Linear(chans, hidden, device=device, dtype=dtype)
        self.act = nn.ReLU(inplace=True)
        self.fc2 = nn.Linear(hidden, chans, device=device, dtype=dtype)

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        """Gates in (0, 1), (B, chans, 1, ..)."""
        squeezed = x.flatten(2).mean(2)
        gate = self.fc2(self.act(self.fc1(squeezed))).sigmoid()
        return gate.reshape(list(gate.shape) + [1] * (x.ndim - 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Recalibrate x (B, chans, *space)."""
        return x * self.gate(x)


class SpatialSE(nn.Module):
    """sSE: weigh each position by a gate that sees all channels there.

    Args:
        chans: Channels.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Shape:
        (B, chans, *space) -> the same, in 2-D or 3-D.
    """

    def __init__(self, chans: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.fc = nn.Linear(chans, 1, device=device, dtype=dtype)

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        """Gates in (0, 1), (B, 1, *space)."""
        return self.fc(x.movedim(1, -1)).movedim(-1, 1).sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Recalibrate x (B, chans, *space)."""
        return x * self.gate(x)


class ConcurrentSE(nn.Module):
    """scSE: the larger of the two recalibrations, element by element.

    The paper compares maximum, sum, product and concatenation; the maximum was best and keeps the number of channels.

    Args:
        chans: Channels.
        rd_ratio: See `ChannelSE`.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Shape:
        (B, chans, *space) -> the same, in 2-D or 3-D.
    """

    def __init__(
        self,
        chans: int,
        rd_ratio: float = 1 / 16,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.cse = ChannelSE(chans, rd_ratio, device, dtype)
        self.sse = SpatialSE(chans, device, dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Recalibrate x (B, chans, *space)."""
        return torch.maximum(self.cse(x), self.sse(x))


_FORMS: dict[str, type[nn.Module]] = {"cse": ChannelSE, "sse": SpatialSE, "scse": ConcurrentSE}


def create_se(name: str | None, chans: int, **kwargs: Any) -> nn.Module:
    """Squeeze-and-excitation by name: "cse", "sse", "scse", or None for an identity.

    Args:
        name: Which form.
        chans: Channels.
        **kwargs: `rd_ratio` for the forms with channels, `device` and `dtype`.

    Raises:
        ValueError: There is no such form.
    """
    if name is None:
        return nn.Identity()
    if name not in _FORMS:
        raise ValueError(f"se={name!r} must be None or one of {', '.join(_FORMS)}")
    return _FORMS[name](chans, **kwargs)
