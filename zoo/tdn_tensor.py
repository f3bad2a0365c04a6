"""TDN for symmetric tensors of molecules, such as polarizabilities: a scalar and an l = 2 part, summed over atoms.

The second module of the family `tdn`: its backbone with another readout. Source of the backbone: "Tensor Decomposition
Networks for Fast Machine Learning Interatomic Potential Computations" (2025).
"""

from typing import Any, ClassVar

import torch
from timm.models._registry import generate_default_cfgs
from torch import nn

from blockzoo._about import FamilyAbout, Small
from blockzoo._builder import build_model
from blockzoo._cfg import from_manifest, graph_cfg, tags_of
from blockzoo._registry import register_model
from blockzoo.layers.equivariant.cartesian_tensor import from_irreps
from blockzoo.layers.equivariant.segment import segment_sum
from blockzoo.tdn import TDN

__all__ = ["TDNTensor"]

about = FamilyAbout(
    title="TDN for tensors",
    purpose="Gives symmetric tensors of molecules, such as their polarizabilities. The tensor turns with the molecule.",
    paper="Tensor Decomposition Networks",
    year=2025,
    part_of="tdn",
    small=(
        Small(
            "tdn_tensor",
            ("tdn_tensor",),
            {"hidden_channels": 8, "depth": 1, "num_basis": 6, "radial_hidden": 8, "num_heads": 2},
        ),
    ),
)


class TDNTensor(TDN):
    """Model that predicts one symmetric tensor for each graph.

    Args:
        l_max: As for `TDN`, at least 2.
        **kwargs: See `TDN`; arguments about energies and forces are not accepted.

    Raises:
        ValueError: `l_max` is less than 2, or see `TDN`.
    """

    task: ClassVar[str] = "tensor"

    excluded_arguments: ClassVar[tuple[str, ...]] = ("forces", "extensive")
    """Arguments of `TDN` that a model of tensors does not take."""

    def __init__(self, l_max: int = 2, **kwargs: Any) -> None:
        if l_max < 2:
            raise ValueError(f"l_max={l_max} must be at least 2: a symmetric tensor has an l = 2 part")
        for name in self.excluded_arguments:
            if name in kwargs:
                raise TypeError(f"{name}={kwargs[name]!r} is not an argument of a model of tensors")
        super().__init__(l_max=l_max, forces="direct", **kwargs)
        for name in ("head", "force_attn", "force_head"):
            delattr(self, name)
        dd: dict[str, Any] = {"device": kwargs.get("device"), "dtype": kwargs.get("dtype")}
        channels = self.hidden_channels
        self.scalar_head = nn.Sequential(nn.Linear(channels, channels, **dd), nn.SiLU(), nn.Linear(channels, 1, **dd))
        self.tensor_head = nn.Linear(channels, 1, bias=False, **dd)

    def forward(  # type: ignore[override]
        self,
        positions: torch.Tensor,
        atomic_numbers: torch.Tensor,
        batch: torch.Tensor | None = None,
        cell: torch.Tensor | None = None,
        pbc: torch.Tensor | None = None,
        edge_index: torch.Tensor | None = None,
        shifts: torch.Tensor | None = None,
        num_graphs: int | None = None,
    ) -> dict[str, torch.Tensor]:
        """See `TDN.forward` for the arguments.

        Returns:
            "tensor" (B, 3, 3), symmetric. It turns with the molecule, and does not depend on the molecule's position.
            References of elements (`set_references`) are added to the first irreducible part, the trace over √3; scales
            multiply the rest.
        """
        vectors, edge_index, batch, num_graphs = self._graph(
            positions, atomic_numbers, batch, cell, pbc, edge_index, shifts, num_graphs
        )
        x = self._nodes(atomic_numbers, self._edges(vectors, edge_index, positions.shape[0]))
        scale = self.scales[atomic_numbers].unsqueeze(1)
        scalar = self.scalar_head(x[:, 0]).to(scale.dtype) * scale + self.references[atomic_numbers].unsqueeze(1)
        rest = self.tensor_head(x[:, 4:9]).squeeze(2).to(scale.dtype) * scale
        tensor = from_irreps(segment_sum(torch.cat([scalar, rest], 1), batch, num_graphs))
        return {"tensor": tensor.to(self.embed.weight.dtype)}


def _cfg(**kwargs: Any) -> Any:
    return graph_cfg(
        "tensor",
        paper_name="Tensor Decomposition Networks for Fast Machine Learning Interatomic Potential Computations",
        paper_ids="arXiv:2507.01131",
        origin_url="https://github.com/divelab/AIRS",
        **kwargs,
    )


default_cfgs = generate_default_cfgs(
    {
        "tdn_tensor": _cfg(),
        **{f"tdn_tensor.{tag}": _cfg(**from_manifest(f"tdn_tensor.{tag}")) for tag in tags_of("tdn_tensor")},
    }
)


@register_model
def tdn_tensor(pretrained: bool = False, **kwargs: Any) -> TDNTensor:
    """TDN with a readout of symmetric tensors, by default with 128 channels, 4 layers, l_max 2."""
    return build_model(TDNTensor, "tdn_tensor", pretrained, **kwargs)  # type: ignore[no-any-return]
