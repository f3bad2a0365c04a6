"""Convolution by Fourier coefficients: the layer of Fourier neural operators, dense or factorised.

Source: "Fourier Neural Operator for Parametric Partial Differential Equations" (2021), section 4; factorised weights:
"Multi-Grid Tensorized Fourier Neural Operator for High-Resolution PDEs" (2023), section 3.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, cast, get_args

import torch
from torch import nn

from blockzoo.kernels.spectral_mix import spectral_mix
from blockzoo.layers.spectral.factorized_tensor import (
    Factorization,
    FactorizedTensor,
    chain_last,
    complex_matmul,
    complex_times,
    contract_first,
    outer_last,
    reconstruct,
)
from blockzoo.layers.spectral.fourier import Backend, Band, analyse, kept_bands, row_tables, synthesise, uses_dft

__all__ = ["Implementation", "SpectralConv", "SpectralWeight"]

Implementation = Literal["auto", "reconstructed", "factorized"]

_MOVE = 4
"""What writing and reading a built weight costs, in multiplications for each entry."""

_CP_APART = 3.2
"""What a multiplication costs where the factors of CP are applied one after the other, against one of the single matrix
product that builds the weight. Measured, like the rule as a whole, by `blockzoo bench fno --only factors`."""

_TYPICAL_BATCH = 16
"""The batch that graphs are made for: one that is recorded must not depend on the batch of the day."""


class SpectralWeight(nn.Module):
    """Weights of the Fourier modes of one or of several layers, dense or factorised.

    A dense weight is stored with its modes first, (*modes, in_chans, out_chans, 2), so that mixing is one batched
    product without a permutation. A factorised one has the axes (layers,) in_chans, out_chans, *modes, where `layers`
    exists only if several layers share one tensor. Slot j of an axis with m modes belongs to frequency j - m // 2; on
    the last axis of a real field, it belongs to frequency j.

    Args:
        in_chans: Input channels.
        out_chans: Output channels.
        slots: Frequencies stored along each axis.
        separable: One factor for each channel instead of a matrix.
        factorization: "dense", "tucker", "cp" or "tt", in upper or lower case.
        rank: See `blockzoo.layers.spectral.factorized_tensor.tensor_ranks`.
        fixed_modes: Axes of the tensor that keep their full rank (Tucker).
        layers: Number of layers that share the tensor; None for a single layer.
        device: Device of the parameters.
        dtype: Type of the parameters, a real one.

    Raises:
        ValueError: `separable` with several layers in a dense weight, or with different numbers of channels.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        slots: Sequence[int],
        separable: bool = False,
        factorization: Factorization = "dense",
        rank: float | int | Sequence[int] = 0.1,
        fixed_modes: Sequence[int] = (),
        layers: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        factorization = cast(Factorization, factorization.lower())
        if separable and in_chans != out_chans:
            raise ValueError(f"separable=True needs equal channels, not in_chans={in_chans}, out_chans={out_chans}")
        self.in_chans, self.out_chans, self.slots = in_chans, out_chans, tuple(slots)
        self.separable = separable
        self.layers = layers
        chans = (in_chans,) if separable else (in_chans, out_chans)
        stack = () if layers is None else (layers,)
        shape = (*stack, *slots, *chans) if factorization == "dense" else (*stack, *chans, *slots)
        std = math.sqrt(2 / (in_chans + out_chans))
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.tensor = FactorizedTensor(shape, factorization, rank, True, std, fixed_modes, **dd)

    @property
    def factorization(self) -> str:
        """How the tensor is stored."""
        return self.tensor.factorization

    @property
    def dtype(self) -> torch.dtype:
        """Type of the parameters."""
        return self.tensor.parts()[0].dtype

    def dense(self, layer: int, where: Sequence[slice]) -> torch.Tensor:
        """The weights of some modes of a layer: (*modes, in_chans, out_chans, 2), or (*modes, chans, 2)."""
        if self.factorization == "dense":
            tensor = self.tensor.tensor
            return (tensor if self.layers is None else tensor[layer])[tuple(where)]
        order = len(self.slots)
        modes_last = reconstruct(self.factorization, self._parts(layer, where), True)
        chans = modes_last.ndim - 1 - order  # 2, or 1 if separable
        # (in_chans, out_chans, *modes, 2) -> (*modes, in_chans, out_chans, 2)
        return modes_last.permute(*range(chans, chans + order), *range(chans), -1)

    def mix(self, x: torch.Tensor, layer: int, where: Sequence[slice], implementation: Implementation) -> torch.Tensor:
        """Multiply coefficients by the weights of their modes.

        Args:
            x: (B, 2, *modes, in_chans).
            layer: Which of the layers that share the tensor.
            where: The slots of these modes, along each axis.
            implementation: "reconstructed" builds the dense weights first, "factorized" applies one factor after the
                other, "auto" chooses the faster way by a rule that counts multiplications.

        Returns:
            (B, 2, *modes, out_chans).
        """
        modes = x.shape[2:-1]
        order, count = len(modes), math.prod(modes)
        x = x.permute(*range(2, 2 + order), 1, 0, 2 + order)  # (B, 2, *modes, C) -> (*modes, 2, B, C)
        batch = x.shape[-2]
        if implementation == "auto":
            batch_or_typical = _TYPICAL_BATCH if torch.compiler.is_compiling() else batch
            implementation = "factorized" if self._factors_are_cheaper(batch_or_typical, count) else "reconstructed"
        if self.separable:
            weight = self.dense(layer, where)  # (*modes, C, 2)
            fields, factors = x.movedim(-3, 0), weight.movedim(-1, 0).unsqueeze(-2)  # (2, *modes, B, C), (.., 1, C)
            y = complex_times(fields, factors).movedim(0, -3)  # (2, *modes, B, C) -> (*modes, 2, B, C)
        elif implementation == "reconstructed" or self.factorization == "dense":
            weight = self.dense(layer, where).reshape(
                count, self.in_chans, self.out_chans, 2
            )  # (M, I, O, 2) for M modes
            z = x.reshape(count, 2, batch, self.in_chans).permute(2, 1, 0, 3)  # (M, 2, B, I) -> (B, 2, M, I)
            y = spectral_mix(z, weight).permute(2, 1, 0, 3)  # (B, 2, M, O) -> (M, 2, B, O)
        else:
            y = self._by_factors(x.reshape(count, 2, batch, self.in_chans), layer, where)
        y = y.reshape(*modes, 2, batch, self.out_chans)
        # (*modes, 2, B, out_chans) -> (B, 2, *modes, out_chans)
        return y.permute(order + 1, order, *range(order), order + 2)

    def _factors_are_cheaper(self, batch: int, modes: int, built: bool = False) -> bool:
        """Compare the cost of the multiplications of both ways; moving a built weight counts too."""
        if self.factorization == "dense" or self.separable:
            return False
        pair, ranks = self.in_chans * self.out_chans, self.tensor.rank[0 if self.layers is None else 1 :]
        factored: float
        if self.factorization == "tucker":
            r_in, r_out = ranks[:2]
            factored = modes * batch * (self.in_chans * r_in + r_in * r_out + r_out * self.out_chans)
            build = modes * (r_in * r_out * self.in_chans + r_out * pair)
        elif self.factorization == "cp":
            rank = self.tensor.rank[0]
            factored = _CP_APART * modes * batch * rank * (self.in_chans + self.out_chans)
            build = modes * rank * pair
        else:
            r_in, r_out = ranks[1:3] if self.layers is None else self.tensor.rank[2:4]
            factored = modes * r_in * self.out_chans * (r_out + batch) + modes * batch * self.in_chans * r_in
            build = modes * pair * r_out + self.in_chans * self.out_chans * r_in * r_out
        if built:
            return factored < modes * batch * pair
        return factored < build + modes * (batch + _MOVE) * pair

    def _parts(self, layer: int, where: Sequence[slice]) -> list[torch.Tensor]:
        """The parts of one layer's tensor, for some modes only."""
        form, parts = self.factorization, self.tensor.parts()
        head, factors = ([], parts) if form == "tt" else (parts[:1], parts[1:])
        if self.layers is not None:  # contract the axis of layers
            first, factors = factors[0], factors[1:]
            if form == "tucker":
                # (2, r_layers, r_in, ..) with the layer's row (1, r_layers, 2) -> (2, r_in, .., 1)
                core = contract_first(head[0].movedim(-1, 0), first[layer].unsqueeze(0), True)
                head = [core.squeeze(-1).movedim(0, -1)]  # (r_in, r_out, r_1, .., 2)
            elif form == "cp":
                # Weights (R, 2) times the layer's row (R, 2), parts in front -> (R, 2)
                head = [complex_times(head[0].movedim(-1, 0), first[layer].movedim(-1, 0)).movedim(0, -1)]
            else:
                # The layer's row (1, r, 2) joins the next core (r, in_chans, r', 2) -> (1, in_chans, r', 2)
                joined = chain_last(first[:, layer].movedim(-1, 0), factors[0], True)
                factors[0] = joined.movedim(0, -1).unsqueeze(0)
        for axis, part in enumerate(where, start=len(factors) - len(where)):
            factors[axis] = factors[axis][:, part] if form == "tt" else factors[axis][part]
        return [*head, *factors]

    def _by_factors(self, x: torch.Tensor, layer: int, where: Sequence[slice]) -> torch.Tensor:
        """Mix x (modes, 2, B, in_chans) without building the dense weights; (modes, 2, B, out_chans)."""
        parts = self._parts(layer, where)
        if self.factorization == "tucker":
            core, into, out, *factors = parts  # (r_in, r_out, r_1, .., 2), (in_chans, r_in, 2), (out_chans, r_out, 2)
            mixing = core.permute(-1, *range(2, core.ndim - 1), 0, 1)  # -> (2, r_1, .., r_in, r_out)
            for factor in factors:  # (2, r_i, .., r_in, r_out, ..) with (m_i, r_i, 2) -> (2, .., r_in, r_out, .., m_i)
                mixing = contract_first(mixing, factor, True)
            mixing = mixing.flatten(3).permute(3, 1, 2, 0)  # (2, r_in, r_out, modes) -> (modes, r_in, r_out, 2)
            x = complex_matmul(x, into)  # (modes, 2, B, in_chans) -> (modes, 2, B, r_in)
            x = complex_matmul(x, mixing)  # -> (modes, 2, B, r_out)
            return complex_matmul(x, out.transpose(0, 1))  # -> (modes, 2, B, out_chans)
        if self.factorization == "cp":
            weights, into, out, *factors = parts  # (R, 2), (in_chans, R, 2), (out_chans, R, 2), (m_i, R, 2) ..
            scale = weights.movedim(-1, 0).unsqueeze(-2)  # (R, 2) -> (2, 1, R)
            for factor in factors:
                scale = outer_last(scale, factor, True)  # (2, M, R) with (m_i, R, 2) -> (2, M * m_i, R)
            x = complex_matmul(x, into)  # (modes, 2, B, in_chans) -> (modes, 2, B, R)
            # (2, modes, B, R) times (2, modes, 1, R) -> (modes, 2, B, R)
            x = complex_times(x.movedim(-3, 0), scale.unsqueeze(-2)).movedim(0, -3)
            return complex_matmul(x, out.transpose(0, 1))  # -> (modes, 2, B, out_chans)
        into, out, *factors = parts  # (1, in_chans, r_in, 2), (r_in, out_chans, r_out, 2), (r_out, m_1, r, 2) ..
        tail = (
            factors[0].movedim(-1, 0).flatten(1, 2)
        )  # (r_out, m_1, r, 2) -> (2, r_out, m_1, r) -> (2, r_out * m_1, r)
        for factor in factors[1:]:
            tail = chain_last(tail, factor, True)  # (2, r_out * M, r) with (r, m_i, r', 2) -> (2, r_out * M * m_i, r')
        # (2, r_out * modes, 1) -> (2, r_out, modes) -> (2, modes, r_out)
        tail = tail.squeeze(-1).unflatten(1, (out.shape[2], -1)).transpose(1, 2)
        head = out.permute(2, 0, 1, 3).flatten(1, 2)  # (r_in, out_chans, r_out, 2) -> (r_out, r_in * out_chans, 2)
        mixing = complex_matmul(tail, head)  # (2, modes, r_in * out_chans)
        # -> (2, modes, r_in, out_chans) -> (modes, r_in, out_chans, 2)
        mixing = mixing.unflatten(-1, (out.shape[0], out.shape[1])).movedim(0, -1)
        x = complex_matmul(x, into.squeeze(0))  # (modes, 2, B, in_chans) -> (modes, 2, B, r_in)
        return complex_matmul(x, mixing)  # -> (modes, 2, B, out_chans)

    @torch.no_grad()
    def fuse(self) -> None:
        """Build the dense weights for good if applying them is cheaper than applying the factors, by the same rule."""
        if self.factorization == "dense" or self.layers is not None or self._factors_are_cheaper(1, 1, built=True):
            return
        dense = self.dense(0, [slice(None)] * len(self.slots)).contiguous()
        trainable = next(self.tensor.parameters()).requires_grad
        self.tensor = FactorizedTensor(dense.shape[:-1], "dense", is_complex=True, device="meta")
        self.tensor.tensor = nn.Parameter(dense, trainable)

    def extra_repr(self) -> str:
        """Channels and slots."""
        return f"{self.in_chans}, {self.out_chans}, slots={self.slots}, separable={self.separable}"


class SpectralConv(nn.Module):
    """Keep some Fourier coefficients, mix channels by a matrix for each, transform back, add a bias.

    The weights belong to frequencies: the layer is the same operator on every grid that has them, and on a coarser grid
    it uses the frequencies that this grid has. `output_size` puts the result on another grid than the input.

    Args:
        in_chans: Input channels.
        out_chans: Output channels.
        n_modes: Modes along each axis, see `blockzoo.layers.spectral.fourier.kept_bands`; `set_n_modes` can lower and
            raise the number again; a mode keeps its weights.
        max_n_modes: Modes that are stored, at least `n_modes`; the same by default.
        bias: Add a bias for each channel.
        separable: One factor for each channel instead of a matrix, see `SpectralWeight`.
        factorization: How the weights are stored, see `SpectralWeight`; None means "dense".
        rank: Share of the dense weight's entries, or ranks, see
            `blockzoo.layers.spectral.factorized_tensor.tensor_ranks`.
        fixed_modes: Axes of the weights that keep their full rank (Tucker).
        implementation: How factors are applied, see `SpectralWeight.mix`.
        is_complex: Map complex fields to complex fields; the last axis then keeps frequencies of both signs.
        weight: Weights that several layers share, instead of the layer's own. They are not registered as parameters of
            this layer.
        layer: Which of these layers this one is.
        backend: See `blockzoo.layers.spectral.fourier`.
        device: Device of the parameters.
        dtype: Type of the parameters, a real one.

    Shape:
        (B, in_chans, *size) -> (B, out_chans, *output_size), any sizes.

    Raises:
        ValueError: No modes, fewer stored than used modes, or an unknown option; a field with another number of axes.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        n_modes: Sequence[int],
        max_n_modes: Sequence[int] | None = None,
        bias: bool = True,
        separable: bool = False,
        factorization: Factorization | None = None,
        rank: float | int | Sequence[int] = 0.1,
        fixed_modes: Sequence[int] = (),
        implementation: Implementation = "auto",
        is_complex: bool = False,
        weight: SpectralWeight | None = None,
        layer: int = 0,
        backend: Backend = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if implementation not in get_args(Implementation):
            raise ValueError(f"implementation={implementation!r} must be one of {', '.join(get_args(Implementation))}")
        if backend not in get_args(Backend):
            raise ValueError(f"backend={backend!r} must be one of {', '.join(get_args(Backend))}")
        self.in_chans, self.out_chans = in_chans, out_chans
        self.is_complex = is_complex
        self.implementation = implementation
        self.backend = backend
        self.max_n_modes = tuple(n_modes if max_n_modes is None else max_n_modes)
        self.set_n_modes(n_modes)
        slots = stored_slots(self.max_n_modes, is_complex)
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.weight: SpectralWeight | None = None
        self._shared: tuple[SpectralWeight, ...] = ()  # a shared weight is in its owner's state dict only
        if weight is None:
            form = factorization or "dense"
            self.weight = SpectralWeight(in_chans, out_chans, slots, separable, form, rank, fixed_modes, **dd)
        elif (weight.in_chans, weight.out_chans, weight.slots) != (in_chans, out_chans, slots):
            raise ValueError(f"weight is for {weight.extra_repr()}, the layer for {in_chans}, {out_chans}, {slots}")
        else:
            self._shared = (weight,)
        self.layer = layer
        if bias:
            std = math.sqrt(2 / (in_chans + out_chans))
            parts = [2] * is_complex
            self.bias: nn.Parameter | None = nn.Parameter(std * torch.randn(*parts, out_chans, **dd))
        else:
            self.register_parameter("bias", None)

    def set_n_modes(self, n_modes: Sequence[int]) -> None:
        """Set how many of the stored modes are used.

        Raises:
            ValueError: A number is not from 1 to the stored one, or there are too few or too many numbers.
        """
        n_modes = tuple(n_modes)
        if len(n_modes) != len(self.max_n_modes) or not n_modes:
            raise ValueError(
                f"n_modes={n_modes} must have {len(self.max_n_modes) or 'some'} numbers, one for each axis"
            )
        if any(not 1 <= m <= most for m, most in zip(n_modes, self.max_n_modes, strict=True)):
            raise ValueError(f"n_modes={n_modes} must be from 1 to max_n_modes={self.max_n_modes}")
        self.n_modes = n_modes

    def forward(self, x: torch.Tensor, output_size: Sequence[int] | None = None) -> torch.Tensor:
        """Apply the layer to a field.

        Args:
            x: (B, in_chans, *size), of the type of the parameters, complex if the layer is; under autocast, of any
                floating type.
            output_size: Points along each axis of the result; those of x by default.

        Returns:
            (B, out_chans, *output_size).

        Raises:
            ValueError: The axes, the channels or the type of x do not fit the layer.
        """
        self._check(x)
        if not self.is_complex:
            # (B, C, *size) -> (B, *size, C) and back
            return self.channels_last(x.movedim(1, -1), output_size).movedim(-1, 1)
        parts = torch.view_as_real(x.movedim(1, -1)).movedim(-1, -2)  # (B, C, *size) -> (B, *size, 2, C)
        y = self.channels_last(parts, output_size)
        # (B, *size, 2, C) -> (B, *size, C, 2), as complex numbers (B, *size, C) -> (B, C, *size)
        return torch.view_as_complex(y.movedim(-2, -1).contiguous()).movedim(-1, 1)

    def _check(self, x: torch.Tensor) -> None:
        if x.ndim != len(self.n_modes) + 2 or x.shape[1] != self.in_chans:
            axes = len(self.n_modes) + 2
            raise ValueError(f"x of shape {tuple(x.shape)} must have {axes} axes, (B, {self.in_chans}, *size)")
        if x.is_complex() != self.is_complex:
            kind = "complex" if self.is_complex else "real"
            raise ValueError(f"x must be {kind} for a layer with is_complex={self.is_complex}, not {x.dtype}")
        own = (self._shared[0] if self.weight is None else self.weight).dtype
        given = x.dtype.to_real() if self.is_complex else x.dtype
        if given != own and not (given.is_floating_point and torch.is_autocast_enabled(x.device.type)):
            wanted = own.to_complex() if self.is_complex else own
            raise ValueError(f"x is {x.dtype}, but the layer's parameters are {own}: convert it by x.to({wanted})")

    def channels_last(self, x: torch.Tensor, output_size: Sequence[int] | None = None) -> torch.Tensor:
        """Apply the layer to fields with channels last.

        Args:
            x: (B, *size, in_chans); of complex fields (B, *size, 2, in_chans), with real and imaginary parts before
                channels.
            output_size: Points along each axis of the result; those of x by default.

        Returns:
            (B, *output_size, out_chans), or (B, *output_size, 2, out_chans).
        """
        size = x.shape[1 : 1 + len(self.n_modes)]
        output_size = size if output_size is None else output_size
        bands = self.bands(size, output_size)
        # (B, *size, C) -> coefficients (B, 2, *kept, C) -> mixed (B, 2, *kept, C') -> (B, *output_size, C')
        z = self._mixed(analyse(x, bands, self.is_complex, self.backend), bands)
        return synthesise(z, output_size, bands, self.is_complex, self.backend)

    def row_tables(self, x: torch.Tensor, size: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Transforms along the last axis, see `blockzoo.layers.spectral.fourier.row_tables`.

        Args:
            x: A field, for its type and device.
            size: Points along each axis, of fields and results.

        Returns:
            Matrices of analysis and synthesis; None if the layer does not use matrices: on complex fields and by "fft".
        """
        bands = self.bands(size, size)
        if self.is_complex or self.backend == "fft" or (self.backend == "auto" and not uses_dft(size, bands, x)):
            return None
        return row_tables(size[-1], bands[-1], x)

    def between_rows(self, a: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """Apply the layer between the transforms of `row_tables`.

        Args:
            a: Coefficients of the field along the last axis, (B, *size[:-1], 2 * m, in_chans).
            size: Points along each axis.

        Returns:
            Coefficients of the result, (B, *size[:-1], 2 * m, out_chans).
        """
        bands = self.bands(size, size)
        # (B, *size[:-1], 2 * m, C) -> (B, 2, *kept, C) -> (B, 2, *kept, C') -> (B, *size[:-1], 2 * m, C')
        return synthesise(self._mixed(analyse(a, bands, size=size), bands), size, bands, but_last=True)

    def _mixed(self, z: torch.Tensor, bands: Sequence[Band]) -> torch.Tensor:
        """Coefficients of the result from those of the field, (B, 2, *kept, C)."""
        where = [self._slots(axis, band) for axis, band in enumerate(bands)]
        weight = self._shared[0] if self.weight is None else self.weight
        z = weight.mix(z, self.layer, where, self.implementation)
        if self.bias is not None:  # a constant is the coefficient of frequency 0
            # All samples, the real part (or both), frequency 0 of every axis: (B, C'), or (B, 2, C')
            constant = (slice(None), slice(None) if self.is_complex else 0, *[-band.low for band in bands])
            z[constant] += self.bias
        return z

    def bands(self, size: Sequence[int], output_size: Sequence[int]) -> list[Band]:
        """Frequencies that both grids have and the layer keeps."""
        pairs = zip(
            kept_bands(size, self.n_modes, self.is_complex),
            kept_bands(output_size, self.n_modes, self.is_complex),
            strict=True,
        )
        bands = []
        for one, other in pairs:
            low, end = max(one.low, other.low), min(one.low + one.count, other.low + other.count)
            bands.append(Band(low, end - low))
        return bands

    def _slots(self, axis: int, band: Band) -> slice:
        half = axis == len(self.n_modes) - 1 and not self.is_complex
        first = band.low + (0 if half else self.max_n_modes[axis] // 2)
        return slice(first, first + band.count)

    def extra_repr(self) -> str:
        """Modes and options."""
        return f"n_modes={self.n_modes}, implementation={self.implementation}, is_complex={self.is_complex}"


def stored_slots(n_modes: Sequence[int], is_complex: bool = False) -> tuple[int, ...]:
    """Frequencies that are stored along each axis: of a real field the last axis has only those from 0 on."""
    return tuple(n_modes) if is_complex else (*n_modes[:-1], n_modes[-1] // 2 + 1)
