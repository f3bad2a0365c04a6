"""TDN against the published formulation: the demo's speed case."""

from typing import Any

import torch

import blockzoo
from blockzoo.layers.equivariant.neighbors import neighbor_list
from blockzoo.tasks.core.suites import SpeedCase
from blockzoo.tasks.molecules.plain import plain_energy_forces

__all__ = ["tdn"]


def tdn() -> SpeedCase:
    """Forces of a small TDN, in the published formulation and in ours."""
    sizes: dict[str, Any] = {"l_max": 1, "hidden_channels": 128, "depth": 3}
    model = blockzoo.create_model("tdn", **sizes, product="cp", extensive=False).eval()
    inputs = model.example_inputs(1, torch.Generator().manual_seed(0))
    positions, numbers = inputs["positions"], inputs["atomic_numbers"]
    edges, _ = neighbor_list(positions, model.cutoff)

    def plain() -> torch.Tensor:
        with torch.enable_grad():
            return plain_energy_forces(model, positions, numbers, edges)[1].detach()

    def ours() -> torch.Tensor:
        return model(positions, numbers, edge_index=edges)["forces"].detach()

    what = f"tdn, l_max 1, 128 channels, 3 blocks, forces on {len(positions)} atoms"
    return SpeedCase(what, "the published formulation", plain, ours)
