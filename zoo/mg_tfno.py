"""Tensorised Fourier neural operators on multi-grid patches (MG-TFNO).

Source: "Multi-Grid Tensorized Fourier Neural Operator for High-Resolution PDEs" (2023), section 4; the layers, the
layout of the weights and what differs from neuraloperator are those of `blockzoo.fno`.

Fields are (B, C, *size), whose sides are multiples of the number of patches along a side.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from timm.models._registry import generate_default_cfgs

from blockzoo._about import FamilyAbout, Small
from blockzoo._builder import build_model
from blockzoo._recompute import recomputed
from blockzoo._registry import register_model
from blockzoo.fno import FNO, operator_cfgs
from blockzoo.layers.spectral.factorized_tensor import Factorization
from blockzoo.layers.spectral.field_ops import coordinate_grid
from blockzoo.layers.spectral.multigrid import MultigridPatching

__all__ = ["MGTFNO"]

about = FamilyAbout(
    title="MG-TFNO",
    purpose=(
        "Learn maps between fields that are too large for one pass: a field is cut into patches. Each patch is mapped "
        "with coarser views of its surroundings."
    ),
    paper="Multi-Grid Tensorized Fourier Neural Operator",
    year=2023,
    part_of="fno",
    small=(Small("mg_tfno2d", ("mg_tfno2d",), {"hidden_channels": 8, "depth": 1, "n_modes": (4, 4)}),),
)


class MGTFNO(FNO):
    """Fourier neural operator on multi-grid patches: maps each patch with coarser views of its surroundings.

    Source: "Multi-Grid Tensorized Fourier Neural Operator for High-Resolution PDEs" (2023), section 4.

    Args:
        n_modes: Modes kept on a padded patch.
        levels: Number of coarser views besides the fine one; there are 2 ** levels patches along each axis.
        padding_fraction: Points around a patch, as a share of the whole axis: a number, or one for each axis.
        boundary: What lies beyond the field, see `MultigridPatching`.
        lowpass: Remove frequencies that the grids of coarser views cannot resolve, see `MultigridPatching`.
        global_coordinates: Coordinates of the whole field instead of those of a padded patch, as published.
        patches_per_step: Number of patches to map at a time; None for all at once. In training, patches are computed
            again in the backward pass, so that memory holds only the activations of one step.
        group: Processes that share the patches of every sample, see `MultigridPatching`.
        factorization: See `FNO`.
        rank: See `FNO`.
        **kwargs: Further arguments of `FNO`, except those in `excluded_arguments`.

    Shape:
        (B, in_chans, *size) -> (B, out_chans, *size); sizes are multiples of 2 ** levels.
    """

    excluded_arguments: ClassVar[tuple[str, ...]] = (
        "embed_dim",
        "domain_padding",
        "domain_padding_mode",
        "resolution_scaling_factor",
        "complex_data",
        "semantics",
    )
    """Arguments of `FNO` that this model does not take."""

    def __init__(
        self,
        n_modes: Sequence[int],
        hidden_channels: int = 32,
        in_chans: int = 1,
        out_chans: int = 1,
        depth: int = 4,
        levels: int = 1,
        padding_fraction: float | Sequence[float] = 0.0,
        boundary: str = "circular",
        lowpass: bool = False,
        global_coordinates: bool = False,
        patches_per_step: int | None = None,
        group: Any = None,
        factorization: Factorization | None = "tucker",
        rank: float | int | Sequence[int] = 0.1,
        **kwargs: Any,
    ) -> None:
        if patches_per_step is not None and patches_per_step < 1:
            raise ValueError(f"patches_per_step={patches_per_step} must be positive or None")
        for name in self.excluded_arguments:
            if name in kwargs:
                raise TypeError(f"{type(self).__name__} has no argument {name!r}")
        patching = MultigridPatching(levels, padding_fraction, len(n_modes), boundary, lowpass, group)
        self.levels = levels  # which `_lifted_chans` reads
        super().__init__(
            n_modes, hidden_channels, in_chans, out_chans, depth, factorization=factorization, rank=rank, **kwargs
        )
        self.patching = patching
        self.global_coordinates = global_coordinates
        self.patches_per_step = patches_per_step

    def _lifted_chans(self) -> int:
        return self.in_chans * (self.levels + 1)

    def forward(  # type: ignore[override]
        self, x: torch.Tensor, output_size: Sequence[int] | None = None, embedding: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Map fields to fields on the same grid: (B, in_chans, *size) -> (B, out_chans, *size)."""
        if output_size is not None and tuple(output_size) != tuple(x.shape[2:]):
            raise ValueError(f"output_size={tuple(output_size)} must be that of x, {tuple(x.shape[2:])}")
        x = self._checked(x)
        patches = self._cut(self._standardised(x))
        return self._in_units(self.patching.stitch(self._map_patches(patches), x.shape[2:]))

    def _cut(self, x: torch.Tensor) -> torch.Tensor:
        """Patches of x for the network, with the coordinates of the whole field appended if those are used."""
        patches = self.patching.patch(x)
        if not self.global_coordinates or self.positional_embedding is None:
            return patches
        return torch.cat([patches, self.patching.patch(self._coordinates(x), levels=0)], 1)

    def _coordinates(self, x: torch.Tensor) -> torch.Tensor:
        return coordinate_grid(x.shape[2:], x).movedim(-1, 0).expand(x.shape[0], len(self.n_modes), *x.shape[2:])

    def forward_random_patch(
        self, x: torch.Tensor, y: torch.Tensor, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict one random patch of every field, and return its target too, for training on patches.

        Args:
            x: Inputs (B, in_chans, *size).
            y: Targets (B, out_chans, *size).
            generator: See `MultigridPatching.random_patch`.

        Returns:
            Two tensors (B, out_chans, *patch).
        """
        x = self._checked(x)
        start, target = self.patching.random_patch(y, generator)
        patches = self.patching.patch_at(self._standardised(x), start)
        if self.global_coordinates and self.positional_embedding is not None:
            patches = torch.cat([patches, self.patching.patch_at(self._coordinates(x), start, levels=0)], 1)
        return self._in_units(self.patching.crop(self._map(patches), x.shape[2:])), target

    def _with_coordinates(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.global_coordinates else super()._with_coordinates(x)

    def _map_patches(self, patches: torch.Tensor) -> torch.Tensor:
        step = self.patches_per_step
        if step is None or len(patches) <= step:
            return self._map(patches)
        done = []
        for part in patches.split(step):
            if torch.is_grad_enabled():
                done.append(self.patching.crop(recomputed(self, part, call=self._map)))
            else:
                done.append(self.patching.crop(self._map(part)))
        return torch.cat(done)

    def forward_features(
        self, x: torch.Tensor, output_size: Sequence[int] | None = None, embedding: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Features of all patches, stitched: (B, hidden_channels, *size)."""
        x = self._checked(x)
        patches = self._inward(self._cut(self._standardised(x)))
        return self.patching.stitch(self._outward(self._features(patches, output_size, embedding)), x.shape[2:])


default_cfgs = generate_default_cfgs(operator_cfgs({"mg_tfno2d": (1, 64, 64)}))  # type: ignore[arg-type]


@register_model
def mg_tfno2d(pretrained: bool = False, **kwargs: Any) -> MGTFNO:
    """`tfno2d` on 2 x 2 multi-grid patches with an eighth of the domain as padding."""
    given = {"n_modes": (16, 16), "padding_fraction": 0.125, **kwargs}
    model: MGTFNO = build_model(MGTFNO, "mg_tfno2d", pretrained, **given)
    return model
