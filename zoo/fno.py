"""Fourier neural operators, dense (FNO) and tensorised (TFNO), in 1 to 3 dimensions.

Sources: "Fourier Neural Operator for Parametric Partial Differential Equations" (2021); "Multi-Grid Tensorized Fourier
Neural Operator for High-Resolution PDEs" (2023), sections 3 and 4; and neuraloperator, whose outputs these models
reproduce from the same weights.

What differs from that code: weights belong to frequencies, not to places in an array, so that results are right for
every input and output size, odd or even, and for grids coarser than the modes; weights are pairs of real numbers, so
that every type, mixed precision, `torch.compile` and export work; only frequencies that are kept are computed;
tensor-trains start at the scale of dense weights; a resolution changes by trigonometric interpolation; complex
fields, embeddings for `norm="ada_in"`, and one tensor for all layers work.

Fields are (B, C, *size), on any grid. Inside, channels come last.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast, get_args

import torch
import torch.nn.functional as F
from timm.models._registry import generate_default_cfgs
from torch import nn

from blockzoo._about import FamilyAbout, Small
from blockzoo._builder import build_model
from blockzoo._cfg import ZooCfg, field_cfg, from_manifest, tags_of
from blockzoo._fno_weights import convert
from blockzoo._model import ZooModel
from blockzoo._recompute import recomputed
from blockzoo._registry import register_model
from blockzoo.layers.spectral.factorized_tensor import Factorization
from blockzoo.layers.spectral.field_ops import ComplexPair, PointwiseMLP, Relay, coordinate_grid, pad_domain
from blockzoo.layers.spectral.fno_block import SKIPS, FNOBlock, Semantics
from blockzoo.layers.spectral.fourier import Backend
from blockzoo.layers.spectral.spectral_conv import Implementation, SpectralConv, SpectralWeight, stored_slots

__all__ = ["FNO"]

about = FamilyAbout(
    title="FNO, TFNO and MG-TFNO",
    purpose=(
        "Learn what a solver of a differential equation computes, from one field to another, and answer at once. "
        "They work on frequencies, so that one model takes grids of any size; TFNO and MG-TFNO need fewer "
        "parameters."
    ),
    paper="Fourier Neural Operator (2021), Multi-Grid Tensorized Fourier Neural Operator",
    year=2023,
    small=(
        *(
            Small(f"{kind}{n}d", (f"{kind}{n}d",), {"hidden_channels": 8, "depth": 1, "n_modes": (4,) * n})
            for kind in ("fno", "tfno")
            for n in (1, 2, 3)
        ),
    ),
)


class FNO(ZooModel):
    """Fourier neural operator.

    Args:
        n_modes: Fourier modes kept along each axis, one number for each dimension.
        hidden_channels: Width.
        in_chans: Channels of the input field.
        out_chans: Channels of the output field.
        depth: Number of blocks.
        lifting_channel_ratio: Hidden channels of the MLP before the blocks, as a multiple of the width; 0 for a single
            linear map.
        projection_channel_ratio: Hidden channels of the MLP after the blocks, as a multiple of the width; 0 for a
            single linear map.
        positional_embedding: "grid" appends coordinates in [0, 1) to the input, None does not.
        non_linearity: Activation: its name in `torch.nn.functional`, or a function. In the MLPs of blocks it is always
            GELU, as published.
        norm: None, "instance_norm", "group_norm", "batch_norm" or "ada_in", see
            `blockzoo.layers.spectral.field_ops.FieldNorm`.
        norm_groups: Groups of channels for "group_norm".
        embed_dim: Size of the embedding that every call must pass for "ada_in".
        use_channel_mlp: Whether blocks have an MLP over channels; without it, and as published, their activation is
            applied twice.
        channel_mlp_expansion: Hidden channels of that MLP, as a multiple of the width.
        channel_mlp_dropout: Dropout after each of its maps.
        channel_mlp_skip: "linear", "soft-gating", "identity" or None.
        fno_skip: Skip connection around the spectral convolution: "linear", "soft-gating", "identity" or None.
        conv_bias_kernel: Window of the "linear" skip around the spectral convolution, odd.
        preactivation: Norm and activation before the convolutions instead of after them.
        stabilizer: "tanh" before every spectral convolution, or None.
        separable: Spectral convolutions that do not mix channels.
        domain_padding: Zeros around the lifted field, as a share of each axis: a number, or one for each axis.
        domain_padding_mode: "symmetric" pads both sides of an axis by that share, "one-sided" its end only.
        resolution_scaling_factor: Output points divided by input points of every block: a number, or one for each
            block.
        factorization: None or "dense", "tucker", "cp", "tt", see `blockzoo.layers.spectral.factorized_tensor`.
        rank: Share of the dense weight's entries, or ranks, see
            `blockzoo.layers.spectral.factorized_tensor.tensor_ranks`.
        fixed_rank_modes: Axes of the weight that keep their full rank (Tucker); the axes are (layers,) input channels,
            output channels, modes. True means the first one.
        implementation: How factors are applied, see `blockzoo.layers.spectral.spectral_conv.SpectralWeight.mix`.
        joint_factorization: One factorised tensor for all blocks.
        max_n_modes: Modes that are stored, see `set_n_modes`; `n_modes` by default.
        complex_data: Complex input and output fields. Norms are not defined for them.
        semantics: "1.0" computes what neuraloperator does since that version, "0.3" what it did before, see `FNOBlock`.
            Version 0.3 gave the hidden channels of lifting and projection as numbers, by default 256.
        backend: How Fourier coefficients are computed, see `blockzoo.layers.spectral.fourier`.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Shape:
        (B, in_chans, *size) -> (B, out_chans, *size), or *output_size.

    Raises:
        ValueError: An option is unknown, options exclude each other, or a number does not fit the dimensions.
    """

    input_mean: torch.Tensor
    input_std: torch.Tensor
    output_mean: torch.Tensor
    output_std: torch.Tensor
    task: ClassVar[str] = "operator"
    modality: ClassVar[str] = "field"
    any_size = True

    def __init__(
        self,
        n_modes: Sequence[int],
        hidden_channels: int = 32,
        in_chans: int = 1,
        out_chans: int = 1,
        depth: int = 4,
        lifting_channel_ratio: float = 2,
        projection_channel_ratio: float = 2,
        positional_embedding: str | None = "grid",
        non_linearity: str | Callable[[torch.Tensor], torch.Tensor] = "gelu",
        norm: str | None = None,
        norm_groups: int = 1,
        embed_dim: int | None = None,
        use_channel_mlp: bool = True,
        channel_mlp_expansion: float = 0.5,
        channel_mlp_dropout: float = 0.0,
        channel_mlp_skip: str | None = "soft-gating",
        fno_skip: str | None = "linear",
        conv_bias_kernel: int = 1,
        preactivation: bool = False,
        stabilizer: str | None = None,
        separable: bool = False,
        domain_padding: float | Sequence[float] | None = None,
        domain_padding_mode: str = "symmetric",
        resolution_scaling_factor: float | Sequence[float] | None = None,
        factorization: Factorization | None = None,
        rank: float | int | Sequence[int] = 1.0,
        fixed_rank_modes: bool | Sequence[int] = False,
        implementation: Implementation = "auto",
        joint_factorization: bool = False,
        max_n_modes: Sequence[int] | None = None,
        complex_data: bool = False,
        semantics: Semantics = "1.0",
        backend: Backend = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dims, width = len(n_modes), hidden_channels
        dd: dict[str, Any] = {"device": device, "dtype": dtype}

        # Step 1: options that are wrong, alone or together
        _check_choices(
            positional_embedding=(positional_embedding, ("grid", None)),
            stabilizer=(stabilizer, ("tanh", None)),
            domain_padding_mode=(domain_padding_mode, ("symmetric", "one-sided")),
            semantics=(semantics, get_args(Semantics)),
            fno_skip=(fno_skip, SKIPS),
            channel_mlp_skip=(channel_mlp_skip, SKIPS),
        )
        if dims not in (1, 2, 3):
            raise ValueError(f"n_modes={tuple(n_modes)} must have one to three numbers, one for each axis")
        if depth < 1 or width < 1:
            raise ValueError(f"depth={depth} and hidden_channels={width} must be positive")
        if complex_data and norm:
            raise ValueError(f"norm={norm!r} is not defined for complex_data=True; use norm=None")
        if joint_factorization and separable:
            raise ValueError("joint_factorization=True needs separable=False")
        if conv_bias_kernel != 1 and fno_skip != "linear":
            raise ValueError(f"conv_bias_kernel={conv_bias_kernel} needs fno_skip='linear', not {fno_skip!r}")
        mlp_hidden = round(width * channel_mlp_expansion) if use_channel_mlp else None
        if mlp_hidden is not None and mlp_hidden < 1:
            raise ValueError(
                f"channel_mlp_expansion={channel_mlp_expansion} of hidden_channels={width} leaves no hidden "
                "channel; use_channel_mlp=False is a block without MLP"
            )

        # Step 2: what the methods below read
        self.in_chans, self.out_chans = in_chans, out_chans
        self.num_features = self.hidden_channels = width
        self.n_modes = tuple(n_modes)
        self.complex_data = complex_data
        self.positional_embedding = positional_embedding
        self.domain_padding = _each(domain_padding or 0.0, dims, "domain_padding")
        self.one_sided = domain_padding_mode == "one-sided"
        self.grad_checkpointing = False

        # Step 3: lifting, from fields and coordinates to the width
        act = _activation(non_linearity)
        lifted = self._lifted_chans() + (dims if positional_embedding else 0)
        ahead, behind = (int(ratio * width + 1e-6) for ratio in (lifting_channel_ratio, projection_channel_ratio))
        self.lifting = _real_or_pair(complex_data, lambda: PointwiseMLP(lifted, ahead, width, act, **dd))

        # Step 4: spectral convolutions, each with a weight of its own or all with their layers of one
        modes_fixed = [0] * fixed_rank_modes if isinstance(fixed_rank_modes, bool) else fixed_rank_modes
        form = cast(Factorization, (factorization or "dense").lower())
        stored = tuple(max_n_modes or n_modes)
        self.shared_weight: SpectralWeight | None = None
        if joint_factorization:
            slots = stored_slots(stored, complex_data)
            self.shared_weight = SpectralWeight(width, width, slots, False, form, rank, modes_fixed, depth, **dd)
        spectral_options: dict[str, Any] = {
            "max_n_modes": stored,
            "separable": separable,
            "factorization": form,
            "rank": rank,
            "fixed_modes": modes_fixed,
            "implementation": implementation,
            "is_complex": complex_data,
            "weight": self.shared_weight,
            "backend": backend,
        }

        # Step 5: blocks around them, and projection to the output channels
        scalings: list[list[float] | None] = [None] * depth
        if resolution_scaling_factor is not None:
            factors = _each(resolution_scaling_factor, depth, "resolution_scaling_factor")
            scalings = [[factor] * dims for factor in factors]
        block_options: dict[str, Any] = {
            "act": act,
            "fno_skip": fno_skip,
            "channel_mlp_skip": channel_mlp_skip,
            "mlp_hidden": mlp_hidden,
            "mlp_drop_rate": channel_mlp_dropout,
            "norm": norm,
            "norm_groups": norm_groups,
            "embed_dim": embed_dim,
            "preactivation": preactivation,
            "stabilizer": stabilizer,
            "conv_bias_kernel": conv_bias_kernel,
            "semantics": semantics,
        }
        self.blocks = nn.ModuleList()
        for i, scaling in enumerate(scalings):
            spectral = SpectralConv(width, width, n_modes, layer=i, **spectral_options, **dd)
            last = i + 1 == depth
            self.blocks.append(FNOBlock(spectral, width, last, scaling=scaling, **block_options, **dd))
        self.projection = _real_or_pair(complex_data, lambda: PointwiseMLP(width, behind, out_chans, act, **dd))

        # Step 6: units of the fields, see `set_statistics`
        for name, count in (("input", in_chans), ("output", out_chans)):
            self.register_buffer(f"{name}_mean", torch.zeros(count, **dd))
            self.register_buffer(f"{name}_std", torch.ones(count, **dd))

    @torch.no_grad()
    def set_statistics(
        self,
        input_mean: torch.Tensor | None = None,
        input_std: torch.Tensor | None = None,
        output_mean: torch.Tensor | None = None,
        output_std: torch.Tensor | None = None,
    ) -> None:
        """Set mean and deviation of fields in their own units, to standardise inputs and convert outputs back.

        The model's inputs and outputs stay in these units. The values are part of the state dict; at the start they are
        0 and 1.

        Args:
            input_mean: Mean of each input channel, (in_chans,).
            input_std: Its standard deviation.
            output_mean: Mean of each output channel, (out_chans,).
            output_std: Its standard deviation.

        Raises:
            ValueError: A deviation is not positive.
        """
        given = {"input_mean": input_mean, "input_std": input_std, "output_mean": output_mean, "output_std": output_std}
        for name, value in given.items():
            if value is not None:
                if name.endswith("std") and not bool((value > 0).all()):
                    raise ValueError(f"{name}={value.tolist()} must be positive")
                getattr(self, name).copy_(value)

    def _standardised(self, x: torch.Tensor) -> torch.Tensor:
        """Standardise inputs (B, in_chans, *size)."""
        shape = [-1] + [1] * (x.ndim - 2)
        return (x - self.input_mean.reshape(shape)) / self.input_std.reshape(shape)

    def _in_units(self, y: torch.Tensor) -> torch.Tensor:
        shape = [-1] + [1] * (y.ndim - 2)
        return y * self.output_std.reshape(shape) + self.output_mean.reshape(shape)

    def _lifted_chans(self) -> int:
        """Channels of the field that is lifted, without coordinates."""
        return self.in_chans

    @property
    def input_size(self) -> tuple[int, ...]:
        """Channels and size of an example; any size works."""
        return (self.in_chans, *[64] * len(self.n_modes))

    @property
    def num_parameters_real(self) -> int:
        """Trainable numbers, each complex weight counted as two."""
        return sum(parameter.numel() for parameter in self.parameters())

    def example_inputs(self, batch_size: int = 1, generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
        """See `ZooModel.example_inputs`."""
        size = tuple(self.input_size)
        if self.complex_data:
            parts = self._example(batch_size, *size, 2, generator=generator)
            return {"x": torch.view_as_complex(parts)}
        return {"x": self._example(batch_size, *size, generator=generator)}

    def size_steps(self) -> tuple[int, ...]:
        """See `ZooModel.size_steps`; a program is for one grid."""
        raise ValueError(
            f"{type(self).__name__} holds the transforms of one grid in an exported program; write one file for each "
            "grid, by --size"
        )

    def set_n_modes(self, n_modes: Sequence[int]) -> None:
        """Set how many of the stored modes are used, in all blocks; a mode keeps its weights.

        Raises:
            ValueError: The numbers do not fit what is stored.
        """
        for block in self.blocks:
            block.spectral.set_n_modes(n_modes)  # type: ignore[operator, union-attr]
        self.n_modes = tuple(n_modes)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Save memory in training: store only the inputs of blocks, and compute blocks again in the backward pass."""
        self.grad_checkpointing = enable

    def forward(
        self,
        x: torch.Tensor,
        output_size: Sequence[int] | None = None,
        embedding: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Map fields to fields.

        Args:
            x: (B, in_chans, *size), complex if `complex_data`.
            output_size: Points along each axis of the result; by default those of `x`, times the scaling factors.
            embedding: (embed_dim,) or (B, embed_dim), for `norm="ada_in"`.

        Returns:
            (B, out_chans, *output_size).
        """
        x = self._checked(x)
        return self._in_units(self._map(self._standardised(x), output_size, embedding))

    def _map(
        self, x: torch.Tensor, output_size: Sequence[int] | None = None, embedding: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The network between standardised fields."""
        return self._outward(self._project(self._features(self._inward(x), output_size, embedding)))

    def forward_features(
        self,
        x: torch.Tensor,
        output_size: Sequence[int] | None = None,
        embedding: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Features after the blocks: (B, hidden_channels, *output_size)."""
        x = self._checked(x)
        return self._outward(self._features(self._inward(self._standardised(x)), output_size, embedding))

    def forward_head(self, x: torch.Tensor) -> torch.Tensor:
        """(B, hidden_channels, *size) -> (B, out_chans, *size)."""
        return self._in_units(self._outward(self._project(self._inward(x))))

    def _project(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.projection(x)
        return y

    def _checked(self, x: torch.Tensor) -> torch.Tensor:
        """The field in the type of the parameters, if its shape fits."""
        dims = len(self.n_modes)
        if x.ndim != dims + 2 or x.shape[1] != self.in_chans:
            raise ValueError(
                f"x of shape {tuple(x.shape)} must be (B, {self.in_chans}, *size) with {dims} axes of space"
            )
        if x.is_complex() != self.complex_data:
            raise ValueError(f"x is {x.dtype}, but the model was made with complex_data={self.complex_data}")
        own = self.input_mean.dtype
        dtype = own.to_complex() if self.complex_data else own
        return x if x.dtype == dtype else x.to(dtype)

    def _inward(self, x: torch.Tensor) -> torch.Tensor:
        """Move channels last, and the parts of complex numbers to the second-to-last axis."""
        x = x.movedim(1, -1)
        return torch.view_as_real(x).movedim(-1, -2) if self.complex_data else x

    def _outward(self, x: torch.Tensor) -> torch.Tensor:
        if self.complex_data:
            x = torch.view_as_complex(x.movedim(-2, -1).contiguous())
        return x.movedim(-1, 1)

    def _with_coordinates(self, x: torch.Tensor) -> torch.Tensor:
        if self.positional_embedding is None:
            return x
        size = x.shape[1 : 1 + len(self.n_modes)]
        grid = coordinate_grid(size, x)
        if self.complex_data:
            grid = torch.stack([grid, torch.zeros_like(grid)], -2)
        return torch.cat([x, grid.expand(x.shape[0], *grid.shape)], -1)

    def _padding(self, size: Sequence[int]) -> list[int]:
        return [round(share * n) for share, n in zip(self.domain_padding, size, strict=True)]

    def _features(
        self, x: torch.Tensor, output_size: Sequence[int] | None, embedding: torch.Tensor | None
    ) -> torch.Tensor:
        dims = len(self.n_modes)
        if output_size is not None and len(output_size) != dims:
            raise ValueError(f"output_size={tuple(output_size)} must have {dims} numbers")
        x = self._with_coordinates(x)
        size = list(x.shape[1 : 1 + dims])
        sides, parts = 1 if self.one_sided else 2, [0] * self.complex_data
        paddings, sizes = [], []  # of the first block's input and of every block's result
        for i in range(len(self.blocks) + 1):
            if i:
                size = cast(FNOBlock, self.blocks[i - 1]).output_size(size)
            if i == len(self.blocks) and output_size is not None:
                size = list(output_size)
            paddings.append(self._padding(size))
            sizes.append([n + sides * p for n, p in zip(size, paddings[-1], strict=True)])
        again = self.grad_checkpointing and self.training and torch.is_grad_enabled()
        relay = None if again or self.complex_data else Relay()

        def prepare(i: int, x: torch.Tensor) -> None:
            """Make the relay provide the input of block i."""
            if relay is not None:
                block = None if i == len(self.blocks) else cast(FNOBlock, self.blocks[i])
                relay.wanted = None if block is None else block.analysis(x, sizes[i], sizes[i + 1])

        if relay is None or any(paddings[0]):
            x = self.lifting(x)
        else:
            prepare(0, x)
            x = self.lifting(x, relay)
        if any(paddings[0]):
            x = pad_domain(x, [*paddings[0], *parts], self.one_sided)
        for i, block in enumerate(self.blocks):
            if again:
                x = recomputed(block, x, sizes[i + 1], embedding)
            else:
                prepare(i + 1, x)
                x = block(x, sizes[i + 1], embedding, relay)
        if any(paddings[-1]):
            x = pad_domain(x, [*[-p for p in paddings[-1]], *parts], self.one_sided)
        return x

    @classmethod
    def convert_state_dict(cls, state_dict: dict[str, Any], model: ZooModel) -> dict[str, Any]:
        """Convert the layout of neuraloperator (0.3, 1.0 or later) to ours."""
        return convert(state_dict, model)


def _check_choices(**given: tuple[str | None, Sequence[str | None]]) -> None:
    """Check options, given as (value, allowed values) by name."""
    for name, (value, known) in given.items():
        if value not in known:
            raise ValueError(f"{name}={value!r} must be one of {', '.join(map(repr, known))}")


def _activation(non_linearity: str | Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    act: Any = non_linearity if callable(non_linearity) else getattr(F, non_linearity, None)
    if act is None:
        raise ValueError(f"non_linearity={non_linearity!r} must be a function of torch.nn.functional, e.g. 'gelu'")
    return cast(Callable[[torch.Tensor], torch.Tensor], act)


def _real_or_pair(complex_data: bool, make: Callable[[], nn.Module]) -> nn.Module:
    """One real map, or the pair of them that acts on complex fields."""
    return ComplexPair(make) if complex_data else make()


def _each(value: float | Sequence[float], count: int, name: str) -> list[float]:
    values = [float(value)] * count if isinstance(value, int | float) else [float(v) for v in value]
    if len(values) != count:
        raise ValueError(f"{name}={value!r} must be one number or {count}")
    return values


def operator_cfgs(sizes: Mapping[str, Sequence[int]]) -> dict[str, ZooCfg]:
    """Configurations of operators and of their shipped weights.

    Args:
        sizes: Names of models, and the size of an example, (C, *size).
    """
    none_args = ("positional_embedding", "fno_skip", "channel_mlp_skip", "factorization")
    cfgs = {name: field_cfg("operator", tuple(size), none_args=none_args) for name, size in sizes.items()}
    tagged = {f"{name}.{tag}": name for name in sizes for tag in tags_of(name)}
    return cfgs | {key: replace(cfgs[name], **from_manifest(key)) for key, name in tagged.items()}


default_cfgs = generate_default_cfgs(
    operator_cfgs({f"{kind}{dims}d": (1, *[64] * dims) for kind in ("fno", "tfno") for dims in (1, 2, 3)})  # type: ignore[arg-type]
)


def _create(cls: type[FNO], name: str, pretrained: bool, **kwargs: Any) -> Any:
    return build_model(cls, name, pretrained, **kwargs)


_MODES = {1: (16,), 2: (16, 16), 3: (8, 8, 8)}
_TENSOR: dict[str, Any] = {"factorization": "tucker", "rank": 0.1}


@register_model
def fno1d(pretrained: bool = False, **kwargs: Any) -> FNO:
    """Fourier neural operator in one dimension, by default with 16 modes and 32 channels."""
    return _create(FNO, "fno1d", pretrained, **{"n_modes": _MODES[1], **kwargs})


@register_model
def fno2d(pretrained: bool = False, **kwargs: Any) -> FNO:
    """Fourier neural operator in two dimensions, by default with 16 x 16 modes and 32 channels."""
    return _create(FNO, "fno2d", pretrained, **{"n_modes": _MODES[2], **kwargs})


@register_model
def fno3d(pretrained: bool = False, **kwargs: Any) -> FNO:
    """Fourier neural operator in three dimensions, by default with 8 x 8 x 8 modes and 32 channels."""
    return _create(FNO, "fno3d", pretrained, **{"n_modes": _MODES[3], **kwargs})


@register_model
def tfno1d(pretrained: bool = False, **kwargs: Any) -> FNO:
    """`fno1d` with weights in Tucker form, at a tenth of their entries."""
    return _create(FNO, "tfno1d", pretrained, **{"n_modes": _MODES[1], **_TENSOR, **kwargs})


@register_model
def tfno2d(pretrained: bool = False, **kwargs: Any) -> FNO:
    """`fno2d` with weights in Tucker form, at a tenth of their entries."""
    return _create(FNO, "tfno2d", pretrained, **{"n_modes": _MODES[2], **_TENSOR, **kwargs})


@register_model
def tfno3d(pretrained: bool = False, **kwargs: Any) -> FNO:
    """`fno3d` with weights in Tucker form, at a tenth of their entries."""
    return _create(FNO, "tfno3d", pretrained, **{"n_modes": _MODES[3], **_TENSOR, **kwargs})
