"""Neighbour lists: all ordered pairs of atoms within a cutoff, periodic images included.

Small systems are searched pair by pair in torch, on any device. Larger ones use vesin's cell list, on the CPU.
"""

import math
from typing import Literal, get_args

import torch

__all__ = ["Method", "neighbor_list"]

Method = Literal["auto", "pairs", "cells"]

_MAX_PAIRS = 4_000_000
"""Pairs times images up to which "auto" searches pair by pair."""


def neighbor_list(
    positions: torch.Tensor,
    cutoff: float,
    batch: torch.Tensor | None = None,
    cell: torch.Tensor | None = None,
    pbc: torch.Tensor | None = None,
    method: Method = "auto",
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Find the neighbours of every atom.

    Args:
        positions: (N, 3), Å. Atoms of periodic systems may lie outside the cell.
        cutoff: Largest distance, Å.
        batch: Graph of each atom, (N,), from 0; all in one graph by default.
        cell: Cell vectors as rows, (B, 3, 3), Å; rows of directions that are not periodic may be zero.
        pbc: Which directions are periodic, (B, 3); none by default.
        method: "pairs" measures every pair in torch; "cells" uses vesin's cell list, one graph at a time, on the CPU;
            "auto" takes the first up to four million pairs and images.

    Returns:
        Edges (2, E), int64, first the sender and then the receiver, sorted by receiver; and, if any direction is
        periodic, the images (E, 3), integers S such that the edge vector, from the receiver to the sender's image, is
        positions[sender] - positions[receiver] + S @ cell. An atom is a neighbour of its own images.

    Raises:
        ValueError: A shape does not fit, a position is not finite, or a periodic cell has no volume.
        ImportError: vesin is needed, but not installed.
    """
    if positions.ndim != 2 or positions.shape[1] != 3:
        raise ValueError(f"positions has shape {tuple(positions.shape)}, expected (N, 3)")
    if not cutoff > 0:
        raise ValueError(f"cutoff={cutoff} must be positive")
    if method not in get_args(Method):
        raise ValueError(f"method={method!r} must be one of {', '.join(get_args(Method))}")
    positions = positions.detach()
    if not bool(positions.isfinite().all()):
        raise ValueError("positions has values that are not finite")
    if batch is None:
        batch = positions.new_zeros(len(positions), dtype=torch.int64)
    elif batch.shape != positions.shape[:1]:
        raise ValueError(f"batch has shape {tuple(batch.shape)}, expected ({len(positions)},)")
    periodic = pbc is not None and bool(pbc.any())
    if periodic:
        assert pbc is not None
        if cell is None:
            raise ValueError("pbc is given without a cell")
        if cell.shape != (*pbc.shape[:1], 3, 3) or pbc.ndim != 2 or pbc.shape[1] != 3:
            raise ValueError(f"cell {tuple(cell.shape)} and pbc {tuple(pbc.shape)} must be (B, 3, 3) and (B, 3)")
        if len(batch) and len(cell) <= int(batch.max()):
            raise ValueError(f"cell has {len(cell)} rows for {int(batch.max()) + 1} graphs")
        cell = cell.detach().to(positions)
        repeats, inverse = _images(cell, pbc.bool(), cutoff)
    else:
        cell, repeats, inverse = None, (0, 0, 0), None
    counts = torch.bincount(batch) if len(batch) else batch
    if method == "auto":
        pairs = int(counts.square().sum()) * math.prod(2 * n + 1 for n in repeats)
        method = "pairs" if pairs <= _MAX_PAIRS else "cells"
    if method == "cells":
        return _by_cells(positions, cutoff, batch, cell, pbc if periodic else None)
    wrapped, wraps = positions, None
    if periodic:
        assert cell is not None and inverse is not None and pbc is not None
        wraps = torch.einsum("ni,nij->nj", positions, inverse[batch]).floor() * pbc[batch]
        wrapped = positions - torch.einsum("ni,nij->nj", wraps, cell[batch])
    sender, receiver = _pairs(batch, counts)
    if not periodic:
        near = (wrapped[sender] - wrapped[receiver]).square().sum(-1) <= cutoff**2
        near &= sender != receiver
        return torch.stack([sender[near], receiver[near]]), None
    assert cell is not None and pbc is not None and wraps is not None
    return _with_images(wrapped, wraps, sender, receiver, repeats, cutoff, batch, cell, pbc)


def _images(cell: torch.Tensor, pbc: torch.Tensor, cutoff: float) -> tuple[tuple[int, ...], torch.Tensor]:
    """Numbers of images to search on either side along each axis (the maximum over graphs), and the inverse cells."""
    dtype, cell = cell.dtype, cell.double()
    inverse = torch.linalg.pinv(cell)
    height = inverse.norm(dim=1).reciprocal()  # of the cell above the plane of the other two vectors
    lengths = cell.norm(dim=-1)
    flat = (~height.isfinite() | (height < 1e-6 * lengths) | (lengths == 0)) & pbc
    dependent = ((cell @ inverse - torch.eye(3).to(cell)).abs().amax(-1) > 1e-4) & pbc
    if bool((flat | dependent).any()):
        raise ValueError("cell has periodic directions whose vectors are zero or depend on each other")
    count = torch.where(pbc, (cutoff / height.clamp_max(1e30)).ceil(), 0).amax(0)
    return tuple(int(n) for n in count.tolist()), inverse.to(dtype)


def _pairs(batch: torch.Tensor, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """All ordered pairs inside graphs, self-pairs included, sorted by receiver."""
    if not len(batch):
        return batch, batch
    order = batch.argsort(stable=True)
    starts = counts.cumsum(0) - counts
    per_atom = counts[batch]
    receiver = torch.arange(len(batch), device=batch.device).repeat_interleave(per_atom)
    first = (per_atom.cumsum(0) - per_atom).repeat_interleave(per_atom)
    place = torch.arange(len(receiver), device=batch.device) - first
    return order[starts[batch[receiver]] + place], receiver


def _with_images(
    wrapped: torch.Tensor,
    wraps: torch.Tensor,
    sender: torch.Tensor,
    receiver: torch.Tensor,
    repeats: tuple[int, ...],
    cutoff: float,
    batch: torch.Tensor,
    cell: torch.Tensor,
    pbc: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    ranges = [torch.arange(-n, n + 1, device=wrapped.device, dtype=wrapped.dtype) for n in repeats]
    found = []
    graph = batch[receiver]
    apart = wrapped[sender] - wrapped[receiver]
    for image in torch.cartesian_prod(*ranges):
        near = (apart + (image @ cell)[graph]).square().sum(-1) <= cutoff**2
        near &= ((image == 0) | pbc[graph]).all(-1)
        if not bool(image.any()):
            near &= sender != receiver
        which = near.nonzero().squeeze(1)
        found.append((which, image.expand(len(which), 3)))
    chosen = torch.cat([which for which, _ in found])
    shifts = torch.cat([image for _, image in found])
    order = chosen.argsort(stable=True)
    chosen, shifts = chosen[order], shifts[order]
    sender, receiver = sender[chosen], receiver[chosen]
    return torch.stack([sender, receiver]), shifts - wraps[sender] + wraps[receiver]


def _by_cells(
    positions: torch.Tensor, cutoff: float, batch: torch.Tensor, cell: torch.Tensor | None, pbc: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    try:
        from vesin import NeighborList
    except ImportError as error:
        raise ImportError(
            f"{len(positions)} atoms need the cell list of vesin, which is not installed: "
            "pip install 'blockzoo[molecules]'"
        ) from error
    search = NeighborList(cutoff=cutoff, full_list=True)
    edges, images = [], []
    for graph in range(int(batch.max()) + 1 if len(batch) else 0):
        atoms = (batch == graph).nonzero().squeeze(1)
        points = positions[atoms].double().cpu().numpy()
        directions = [False] * 3 if pbc is None else pbc[graph].bool().tolist()
        box = torch.zeros(3, 3) if cell is None else cell[graph]
        i, j, shift = search.compute(
            points=points, box=box.double().cpu().numpy(), periodic=directions, quantities="ijS", copy=True
        )
        local = torch.stack([torch.as_tensor(j.astype("int64")), torch.as_tensor(i.astype("int64"))])
        order = local[1].argsort(stable=True)
        edges.append(atoms[local[:, order].to(atoms.device)])
        images.append(torch.as_tensor(shift)[order].to(positions))
    if not edges:
        return batch.new_zeros((2, 0)), None
    edge_index, shifts = torch.cat(edges, 1), torch.cat(images)
    order = edge_index[1].argsort(stable=True)
    return edge_index[:, order], None if pbc is None else shifts[order]
