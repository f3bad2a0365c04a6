"""The block of Fourier neural operators.

Source: "Multi-Grid Tensorized Fourier Neural Operator for High-Resolution PDEs" (2023), section 5.1, in the form of
neuraloperator.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from blockzoo.layers.spectral.field_ops import ComplexPair, FieldNorm, LocalConv, PointwiseMLP, Relay, SoftGate
from blockzoo.layers.spectral.fourier import resample
from blockzoo.layers.spectral.pointwise import PointBlock, RowTables, point_block, runs_in_pieces
from blockzoo.layers.spectral.spectral_conv import SpectralConv

__all__ = ["SKIPS", "FNOBlock", "Semantics"]

SKIPS = ("linear", "soft-gating", "identity", None)

Semantics = Literal["1.0", "0.3"]


class FNOBlock(nn.Module):
    """Spectral convolution and channel MLP, each with a skip connection.

    With a = skip(x), b = mlp_skip(x): h = act(norm1(spectral(x)) + a), y = act(norm2(mlp(h) + b)). The last block of a
    model has no activations; inside the MLP it is always GELU. With `preactivation`, x = norm1(act(x)) comes first,
    norm2 comes before the MLP, and nothing after it.

    Args:
        spectral: The convolution.
        chans: Channels.
        last: Whether it is a model's last block.
        act: Activation.
        fno_skip: "linear", "soft-gating", "identity" or None.
        channel_mlp_skip: Skip connection around the MLP: "linear", "soft-gating", "identity" or None.
        mlp_hidden: Hidden channels of the MLP; None for no MLP.
        mlp_drop_rate: Dropout after each of its maps.
        norm: Kind of norm, see `FieldNorm`, or None.
        norm_groups: Groups of channels for "group_norm".
        embed_dim: Size of the embedding that every call must pass for "ada_in".
        preactivation: See above.
        stabilizer: "tanh" before the spectral convolution, or None.
        conv_bias_kernel: Window of the "linear" skip around it.
        scaling: Output points divided by input points along each axis; None for the same size.
        semantics: "1.0": without MLP the activation is applied twice, as neuraloperator does since 1.0. "0.3": it is
            applied once, the last block has an activation before its MLP, and a block without MLP has only one norm.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(
        self,
        spectral: SpectralConv,
        chans: int,
        last: bool = False,
        act: Callable[[torch.Tensor], torch.Tensor] = F.gelu,
        fno_skip: str | None = "linear",
        channel_mlp_skip: str | None = "soft-gating",
        mlp_hidden: int | None = None,
        mlp_drop_rate: float = 0.0,
        norm: str | None = None,
        norm_groups: int = 1,
        embed_dim: int | None = None,
        preactivation: bool = False,
        stabilizer: str | None = None,
        conv_bias_kernel: int = 1,
        scaling: Sequence[float] | None = None,
        semantics: Semantics = "1.0",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.spectral = spectral
        self.act = act
        self.preactivation = preactivation
        self.stabilizer = stabilizer
        self.scaling = scaling
        dims = len(spectral.n_modes)
        early = semantics == "0.3"
        self.acts_inside = not last or (early and mlp_hidden is not None and not preactivation)
        self.acts_behind = not (last or preactivation or (early and mlp_hidden is None))

        def pair(make: Callable[[], nn.Module]) -> nn.Module:
            return ComplexPair(make) if spectral.is_complex else make()

        def skip(kind: str | None, kernel_size: int = 1) -> nn.Module | None:
            if kind is None:
                return None
            if kind == "identity":
                return nn.Identity()
            if kind == "soft-gating":
                return pair(lambda: SoftGate(chans, **dd))
            if kernel_size > 1:
                return pair(lambda: LocalConv(chans, chans, kernel_size, dims, **dd))
            return pair(lambda: nn.Linear(chans, chans, bias=False, **dd))

        self.fno_skip = skip(fno_skip, conv_bias_kernel)
        self.mlp: nn.Module | None = None
        self.mlp_skip: nn.Module | None = None
        if mlp_hidden:
            self.mlp = pair(lambda: PointwiseMLP(chans, mlp_hidden, chans, drop_rate=mlp_drop_rate, **dd))
            self.mlp_skip = skip(channel_mlp_skip)
        two = norm and not (early and mlp_hidden is None)
        self.norm1 = FieldNorm(chans, norm, embed_dim, norm_groups, **dd) if norm else None
        self.norm2 = FieldNorm(chans, norm, embed_dim, norm_groups, **dd) if norm and two else None
        if preactivation and early and mlp_hidden is None:
            self.acts_inside = False

    def output_size(self, size: Sequence[int]) -> list[int]:
        """Points along each axis of the result for a field of this size."""
        return [round(n * s) for n, s in zip(size, self.scaling or [1.0] * len(size), strict=True)]

    def forward(
        self,
        x: torch.Tensor,
        output_size: Sequence[int] | None = None,
        embedding: torch.Tensor | None = None,
        relay: Relay | None = None,
    ) -> torch.Tensor:
        """Map a field.

        Args:
            x: (B, *size, C), or (B, *size, 2, C) if complex.
            output_size: Points along each axis of the result; by default those of `x`, times the scaling.
            embedding: For norms that take one.
            relay: Coefficients from the layer before, and for the next one.

        Returns:
            (B, *output_size, C).
        """
        a = None
        if relay is not None:
            a, relay.ready = relay.ready, None
        if self.preactivation:
            x = self.act(x)
            x = x if self.norm1 is None else self.norm1(x, embedding)
        size = list(x.shape[1 : 1 + len(self.spectral.n_modes)])
        target = self.output_size(size) if output_size is None else list(output_size)
        weights = self._point_weights() if target == size else None
        tables = None if weights is None else self._row_tables(x, size)
        if tables is not None and weights is not None and runs_in_pieces([x], weights):
            analysis, synthesis = tables
            h = self.spectral.between_rows(torch.matmul(analysis, x) if a is None else a, size)
            around = RowTables(synthesis, None if relay is None else relay.wanted)
            h, a = point_block(self._point_block(), h, x, weights, around)
            if relay is not None:
                relay.ready = a
            return h
        h = self.spectral.channels_last(torch.tanh(x) if self.stabilizer == "tanh" else x, target)
        if self.norm1 is not None and not self.preactivation:
            h = self.norm1(h, embedding)
        if weights is not None and runs_in_pieces([x, h], weights):
            h, _ = point_block(self._point_block(), h, x, weights, overwrite=True)
        else:
            h = self._field_by_field(x, h, target, embedding)
        if self.norm2 is not None and not self.preactivation:
            h = self.norm2(h, embedding)
            h = self.act(h) if self.acts_behind else h
        return h

    def analysis(self, x: torch.Tensor, size: Sequence[int], output_size: Sequence[int]) -> torch.Tensor | None:
        """The matrix of the coefficients that this block can take from a relay.

        Args:
            x: A field, for its type and device.
            size: Points along each axis of the field that the block will be given.
            output_size: Those of its result.

        Returns:
            For `Relay.wanted`.
        """
        weights = self._point_weights() if list(size) == list(output_size) else None
        tables = None if weights is None or not runs_in_pieces([x], weights) else self._row_tables(x, size)
        return None if tables is None else tables[0]

    def _row_tables(self, x: torch.Tensor, size: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Transforms along the last axis, if only maps of single points come after the convolution."""
        if self.preactivation or self.stabilizer or self.norm1 is not None or self.norm2 is not None:
            return None
        return self.spectral.row_tables(x, size)

    def _point_weights(self) -> list[torch.Tensor | None] | None:
        """Weights for `point_block`, if it can compute everything after the spectral convolution."""
        if self.spectral.is_complex or isinstance(self.fno_skip, LocalConv) or self.act is not F.gelu:
            return None
        if self.mlp is None:
            return [getattr(self.fno_skip, "weight", None), *[None] * 5]
        assert isinstance(self.mlp, PointwiseMLP)
        if (self.preactivation and self.norm2 is not None) or self.mlp.drops():
            return None
        skips = [getattr(skip, "weight", None) for skip in (self.fno_skip, self.mlp_skip)]
        return [skips[0], *self.mlp.weights(), skips[1]]

    def _point_block(self) -> PointBlock:
        kinds = {nn.Linear: "matrix", SoftGate: "gate", nn.Identity: "identity", type(None): None}
        behind = self.acts_behind and self.norm2 is None
        skip, mlp_skip = kinds[type(self.fno_skip)], kinds[type(self.mlp_skip)]
        return PointBlock(skip, self.mlp is not None, mlp_skip, self.acts_inside, behind)

    def _field_by_field(
        self, x: torch.Tensor, h: torch.Tensor, size: Sequence[int], embedding: torch.Tensor | None
    ) -> torch.Tensor:
        """The general form, for skip connections that change the grid, use neighbouring points, or are complex."""
        if self.fno_skip is not None:
            h = h + self._on_grid(self.fno_skip(x), size)
        h = self.act(h) if self.acts_inside else h
        if self.preactivation and self.norm2 is not None:
            h = self.norm2(h, embedding)
        if self.mlp is not None:
            h = self.mlp(h)
            if self.mlp_skip is not None:
                h = h + self._on_grid(self.mlp_skip(x), size)
        return self.act(h) if self.acts_behind and self.norm2 is None else h

    def _on_grid(self, x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """A skip connection on the grid of the result."""
        if self.spectral.is_complex:  # one part is a real field like the other
            return torch.stack([resample(part, size) for part in x.unbind(-2)], -2)
        return resample(x, size)
