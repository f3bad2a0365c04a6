"""Pointwise layers of operators on fields, which keep channels last: (B, *size, C)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from blockzoo.layers.spectral.pointwise import PointBlock, RowTables, point_block, runs_in_pieces

__all__ = [
    "ComplexPair",
    "FieldNorm",
    "LocalConv",
    "PointwiseMLP",
    "Relay",
    "SoftGate",
    "coordinate_grid",
    "pad_domain",
]


def coordinate_grid(size: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """Coordinates i / n of every point along each axis, in [0, 1): (*size, axes), in the type of `like`."""
    axes = [torch.arange(n, device=like.device, dtype=torch.float64) / n for n in size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).to(like.dtype)


def pad_domain(x: torch.Tensor, amounts: Sequence[int], one_sided: bool = False) -> torch.Tensor:
    """Pad every axis of a field (B, *size, C) with zeros, on both sides or at its end; negative amounts crop."""
    pads = [0, 0]
    for amount in reversed(amounts):
        pads += [0 if one_sided else amount, amount]
    return F.pad(x, pads)


class Relay:
    """Coefficients along the last axis that a layer passes on with its field.

    It computes them from pieces of the field that are still in the cache.

    Attributes:
        wanted: The next layer's analysis, (K, n); None if it does not need any.
        ready: Coefficients of the field that was passed on, (B, *size[:-1], K, C); None if they were not computed.
    """

    def __init__(self) -> None:
        self.wanted: torch.Tensor | None = None
        self.ready: torch.Tensor | None = None


class PointwiseMLP(nn.Module):
    """MLP over channels: two linear maps with an activation between, or one linear map.

    Args:
        in_chans: Input channels.
        hidden: Channels between; 0 for a single map.
        out_chans: Output channels.
        act: Activation.
        drop_rate: Dropout after each map.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Shape:
        (..., in_chans) -> (..., out_chans).
    """

    def __init__(
        self,
        in_chans: int,
        hidden: int,
        out_chans: int,
        act: Callable[[torch.Tensor], torch.Tensor] = F.gelu,
        drop_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        sizes = [in_chans, hidden, out_chans] if hidden else [in_chans, out_chans]
        self.layers = nn.ModuleList(nn.Linear(a, b, **dd) for a, b in zip(sizes[:-1], sizes[1:], strict=True))
        self.act = act
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: torch.Tensor, relay: Relay | None = None) -> torch.Tensor:
        """Apply the layer to x (..., in_chans); see `Relay`."""
        if len(self.layers) == 2 and self.act is F.gelu and not self.drops() and runs_in_pieces([x], self.weights()):
            tables = RowTables(analysis=None if relay is None else relay.wanted)
            y, a = point_block(PointBlock(), x, None, [None, *self.weights(), None], tables)
            if relay is not None:
                relay.ready = a
            return y
        for i, layer in enumerate(self.layers):
            x = layer(x)
            x = self.drop(self.act(x) if i + 1 < len(self.layers) else x)
        return x

    def drops(self) -> bool:
        """Whether dropout is active."""
        return self.training and self.drop.p > 0

    def weights(self) -> list[torch.Tensor]:
        """Weight and bias of each map."""
        return [parameter for layer in self.layers for parameter in (layer.weight, layer.bias)]  # type: ignore[misc]


class SoftGate(nn.Module):
    """Multiply each channel by a trainable number, 1 at the start: (..., C) -> (..., C)."""

    def __init__(self, chans: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(chans, device=device, dtype=dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer."""
        return x * self.weight


class LocalConv(nn.Module):
    """Convolution with a small window, padded with zeros, without bias: (B, *size, C) -> (B, *size, out_chans)."""

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        kernel_size: int,
        dims: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={kernel_size} must be odd")
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
        self.conv = conv(
            in_chans, out_chans, kernel_size, padding=kernel_size // 2, bias=False, device=device, dtype=dtype
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer."""
        return self.conv(x.movedim(-1, 1)).movedim(1, -1)


class FieldNorm(nn.Module):
    """Normalisation of a field.

    | kind | statistics over | affine |
    | --- | --- | --- |
    | instance_norm | space, for each sample and channel | none |
    | group_norm | space and the channels of a group, for each sample | for each channel |
    | batch_norm | space and batch, for each channel; running ones in evaluation | for each channel |
    | ada_in | as instance_norm | for each channel, by an MLP from an embedding |

    Args:
        chans: Channels.
        kind: See above.
        embed_dim: Size of the embedding for "ada_in".
        groups: Groups of channels for "group_norm"; one is all channels.
        eps: Added to variances.
        momentum: Of running statistics.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ValueError: An unknown kind, "ada_in" without `embed_dim`, or groups that do not divide the channels.
    """

    KINDS = ("instance_norm", "group_norm", "batch_norm", "ada_in")

    def __init__(
        self,
        chans: int,
        kind: str,
        embed_dim: int | None = None,
        groups: int = 1,
        eps: float = 1e-5,
        momentum: float = 0.1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if kind not in self.KINDS:
            raise ValueError(f"norm={kind!r} must be None or one of {', '.join(self.KINDS)}")
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        if groups < 1 or chans % groups:
            raise ValueError(f"norm_groups={groups} must be positive and divide the {chans} channels")
        self.kind, self.eps, self.groups = kind, eps, groups
        self.affine: nn.Module | None = None
        self.batch: nn.BatchNorm1d | None = None
        if kind == "batch_norm":
            self.batch = nn.BatchNorm1d(chans, eps, momentum, **dd)
        if kind == "group_norm":
            self.weight = nn.Parameter(torch.ones(chans, **dd))
            self.bias = nn.Parameter(torch.zeros(chans, **dd))
        if kind == "ada_in":
            if not embed_dim:
                raise ValueError("norm='ada_in' needs embed_dim, the size of the embedding that sets scale and shift")
            self.affine = PointwiseMLP(embed_dim, 512, 2 * chans, **dd)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor | None = None) -> torch.Tensor:
        """Normalise x (B, *size, C); `embedding` is (embed_dim,) for the whole batch or (B, embed_dim)."""
        if x.shape[0] == 0:  # nothing to normalise, and no statistics to take
            return x
        if self.batch is not None:
            return self.batch(x.flatten(0, -2)).reshape(x.shape)
        wide = x if x.dtype == torch.float64 else x.float()
        if self.kind == "group_norm":
            grouped = wide.unflatten(-1, (self.groups, -1))
            var, mean = torch.var_mean(grouped, [*range(1, x.ndim - 1), x.ndim], correction=0, keepdim=True)
            y = ((grouped - mean) * torch.rsqrt(var + self.eps)).flatten(-2)
        else:
            var, mean = torch.var_mean(wide, list(range(1, x.ndim - 1)), correction=0, keepdim=True)
            y = (wide - mean) * torch.rsqrt(var + self.eps)
        if self.kind == "group_norm":
            y = y * self.weight + self.bias
        if self.affine is not None:
            if embedding is None:
                raise ValueError("norm='ada_in' needs an embedding in every call")
            scale, shift = self.affine(embedding).chunk(2, -1)
            if scale.ndim == 2:
                between = [1] * (x.ndim - 2)
                scale, shift = scale.reshape(len(scale), *between, -1), shift.reshape(len(shift), *between, -1)
            y = y * scale + shift
        return y.to(x.dtype)


class ComplexPair(nn.Module):
    """Complex map from two real ones: (a + ib)(x + iy) = a(x) - b(y) + i (a(y) + b(x)).

    Fields are (..., 2, C), with real and imaginary parts on the second-to-last axis.

    Args:
        make: Makes one of the real maps.
    """

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.real, self.imag = make(), make()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer."""
        a, b = self.real(x), self.imag(x)
        return torch.stack([a[..., 0, :] - b[..., 1, :], a[..., 1, :] + b[..., 0, :]], -2)
