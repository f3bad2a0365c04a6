# ruff: noqa: F403  # type checkers follow the star imports; nothing runs them
"""Layers shared by the model families, in groups by kind of operation.

    from blockzoo.layers import ConvNormAct, FactorizedTensor

| group | contents |
| --- | --- |
| `conv` | convolutions with norm and activation, deployed, separable, inception, pseudo-3D; squeeze-and-excitation |
| `attention` | window and pooled attention, gated linear attention, the recurrent block |
| `spectral` | Fourier transforms, spectral convolutions, factorised weights, blocks of operators, multi-grid patches |
| `equivariant` | spherical harmonics, tensor products, edges, neighbour lists, radial functions |
| `series` | embedding and standardisation of time series, period search |

Every public class and function of the groups' files is also here, and its file is imported when the name is first used.
Type aliases and constants stay in their files.
"""

from typing import TYPE_CHECKING

if __name__ != "blockzoo.layers":
    raise ImportError("import this package as blockzoo.layers (pip install -e .)")

from blockzoo.kernels._lazy import offer

if TYPE_CHECKING:
    from blockzoo.layers.attention.gated_linear import *
    from blockzoo.layers.attention.pooled import *
    from blockzoo.layers.attention.recurrent_block import *
    from blockzoo.layers.attention.window import *
    from blockzoo.layers.conv.conv_norm_act import *
    from blockzoo.layers.conv.deployed_conv import *
    from blockzoo.layers.conv.inception_conv import *
    from blockzoo.layers.conv.pseudo3d import *
    from blockzoo.layers.conv.scheduled_drop_path import *
    from blockzoo.layers.conv.separable_conv import *
    from blockzoo.layers.conv.squeeze_excite import *
    from blockzoo.layers.equivariant.cartesian_tensor import *
    from blockzoo.layers.equivariant.constants import *
    from blockzoo.layers.equivariant.coupling import *
    from blockzoo.layers.equivariant.cp_factors import *
    from blockzoo.layers.equivariant.cp_fit import *
    from blockzoo.layers.equivariant.derivatives import *
    from blockzoo.layers.equivariant.edge_attention import *
    from blockzoo.layers.equivariant.edge_product import *
    from blockzoo.layers.equivariant.irreps import *
    from blockzoo.layers.equivariant.neighbors import *
    from blockzoo.layers.equivariant.radial import *
    from blockzoo.layers.equivariant.segment import *
    from blockzoo.layers.equivariant.spherical_harmonics import *
    from blockzoo.layers.equivariant.spherical_power import *
    from blockzoo.layers.equivariant.tensor_product import *
    from blockzoo.layers.series.embed import *
    from blockzoo.layers.series.norm import *
    from blockzoo.layers.series.period import *
    from blockzoo.layers.series.quantiles import *
    from blockzoo.layers.spectral.factorized_tensor import *
    from blockzoo.layers.spectral.field_ops import *
    from blockzoo.layers.spectral.fno_block import *
    from blockzoo.layers.spectral.fourier import *
    from blockzoo.layers.spectral.multigrid import *
    from blockzoo.layers.spectral.pointwise import *
    from blockzoo.layers.spectral.spectral_conv import *

_FILES = {
    "attention.gated_linear": ("GatedLinearAttention", "gated_linear_attention", "gated_linear_attention_recurrent"),
    "attention.pooled": ("PooledAttention", "pool_tokens"),
    "attention.recurrent_block": ("DeployedRecurrentBlock", "RecurrentBlock", "SwiGLU"),
    "attention.window": ("WindowAttention", "from_windows", "to_windows", "window_attention"),
    "conv.conv_norm_act": (
        "ConvNormAct",
        "ModalBatchNorm2d",
        "NormConv",
        "batch_norm_affine",
        "fold_before",
        "pad_same",
        "replace_parameters",
        "set_conv_norm_mode",
    ),
    "conv.deployed_conv": ("DeployedConv2d", "deploy_convolutions", "runs_eagerly_on_cpu"),
    "conv.inception_conv": ("InceptionConv2d",),
    "conv.pseudo3d": (
        "FrameConv",
        "PseudoConv3d",
        "TimeConv",
        "add_relu",
        "as_clip",
        "as_courses",
        "as_frames",
        "channels_last_clip",
        "pool_time",
    ),
    "conv.scheduled_drop_path": ("ScheduledDropPath", "set_drop_path_progress"),
    "conv.separable_conv": ("SeparableConv",),
    "conv.squeeze_excite": ("ChannelSE", "ConcurrentSE", "SpatialSE", "create_se"),
    "equivariant.cartesian_tensor": ("from_irreps", "symmetric_basis", "to_irreps"),
    "equivariant.constants": ("ExactConstants",),
    "equivariant.coupling": ("clebsch_gordan_tensor", "gaunt_tensor", "paths", "sphere_grid"),
    "equivariant.cp_factors": ("cp_factors", "cp_ranks", "published_rank"),
    "equivariant.cp_fit": ("fit_cp", "relative_error"),
    "equivariant.derivatives": ("value_and_slope",),
    "equivariant.edge_attention": ("EdgeAttention", "EdgeDegree", "EdgeParts", "Edges", "split_edges"),
    "equivariant.edge_product": ("EdgeProduct",),
    "equivariant.irreps": ("Gate", "IrrepsLayerNorm", "IrrepsLinear", "IrrepsRMSNorm", "component_degrees"),
    "equivariant.neighbors": ("neighbor_list",),
    "equivariant.radial": ("BesselBasis", "GaussianBasis", "RadialMLP", "polynomial_envelope"),
    "equivariant.segment": ("segment_softmax", "segment_sum"),
    "equivariant.spherical_harmonics": ("degree_slices", "spherical_harmonics"),
    "equivariant.spherical_power": ("GauntProductBasis", "SphericalPower"),
    "equivariant.tensor_product": ("CPTensorProduct", "ClebschGordanProduct", "GauntTensorProduct", "LowRankProduct"),
    "series.embed": ("SeriesEmbedding", "sinusoidal_positions"),
    "series.norm": ("standardize_series",),
    "series.period": ("PeriodBlock", "find_periods"),
    "series.quantiles": ("check_levels", "split_quantiles"),
    "spectral.factorized_tensor": (
        "FactorizedTensor",
        "complex_matmul",
        "complex_times",
        "reconstruct",
        "tensor_ranks",
    ),
    "spectral.field_ops": (
        "ComplexPair",
        "FieldNorm",
        "LocalConv",
        "PointwiseMLP",
        "Relay",
        "SoftGate",
        "coordinate_grid",
        "pad_domain",
    ),
    "spectral.fno_block": ("FNOBlock",),
    "spectral.fourier": ("Band", "analyse", "kept_bands", "resample", "row_tables", "synthesise", "uses_dft"),
    "spectral.multigrid": ("MultigridPatching",),
    "spectral.pointwise": ("PointBlock", "RowTables", "point_block", "runs_in_pieces"),
    "spectral.spectral_conv": ("SpectralConv", "SpectralWeight"),
}
"""Public classes and functions by their file."""

if not TYPE_CHECKING:  # a type checker would take any name for one that there is
    __all__, __getattr__, __dir__ = offer(__name__, _FILES)
