# ruff: noqa: F403  # type checkers follow the star imports; nothing runs them
"""Numerical kernels: a plain torch reference for each operation, and faster forms where these save time.

    from blockzoo.kernels import fold_conv, fold_conv_ref

One file holds one operation. Every public function of the files is also here, and its file is imported when the name is
first used. `blockzoo.kernels._dispatch` decides which form of an operation runs.
"""

from typing import TYPE_CHECKING

if __name__ != "blockzoo.kernels":
    raise ImportError("import this package as blockzoo.kernels (pip install -e .)")

from blockzoo.kernels._lazy import offer

if TYPE_CHECKING:
    from blockzoo.kernels.edge_product import *
    from blockzoo.kernels.fold_conv import *
    from blockzoo.kernels.low_rank_product import *
    from blockzoo.kernels.period_conv import *
    from blockzoo.kernels.residual_norm import *
    from blockzoo.kernels.separable_conv import *
    from blockzoo.kernels.spectral_mix import *

_FILES = {
    "edge_product": ("Segments", "edge_product", "edge_product_ref", "make_segments"),
    "fold_conv": ("fold_conv", "fold_conv_ref", "fold_conv_weight", "fold_conv_weight_ref"),
    "low_rank_product": ("low_rank_product", "low_rank_product_op", "low_rank_product_ref"),
    "period_conv": (
        "period_candidates",
        "period_conv",
        "period_conv_folded",
        "period_conv_fused",
        "period_conv_gathered",
    ),
    "residual_norm": ("residual_norm", "residual_norm_op", "residual_norm_ref"),
    "separable_conv": ("separable_conv", "separable_conv_op", "separable_conv_ref"),
    "spectral_mix": ("mode_product", "mode_product_ref", "spectral_mix", "spectral_mix_ref"),
}
"""Public classes and functions by their file."""

if not TYPE_CHECKING:  # a type checker would take any name for one that there is
    __all__, __getattr__, __dir__ = offer(__name__, _FILES)
