"""Neighbour lists against sums over many images, vesin's and ASE-like corner cases."""

import pytest
import torch

from blockzoo.layers.equivariant import neighbors
from blockzoo.layers.equivariant.neighbors import neighbor_list

SKEW = torch.tensor([[3.1, 0.0, 0.0], [1.4, 2.7, 0.0], [-0.8, 0.9, 3.3]], dtype=torch.double)


def reference(positions, cutoff, cell, pbc, images=5):
    """Every pair and image within a wide box of images, as a set."""
    found = set()
    ranges = [range(-images, images + 1) if p else (0,) for p in pbc]
    for s in torch.cartesian_prod(*[torch.tensor(list(r)) for r in ranges]).tolist():
        shift = torch.tensor(s, dtype=torch.double) @ cell
        distance = (positions[:, None] + shift - positions[None]).norm(dim=-1)
        for i, j in (distance <= cutoff).nonzero().tolist():
            if any(s) or i != j:
                found.add((i, j, *s))
    return found


def as_set(edge_index, shifts):
    rows = torch.cat([edge_index.T, shifts.round().long()], 1).tolist()
    assert len(set(map(tuple, rows))) == len(rows)  # no edge twice
    return set(map(tuple, rows))


@pytest.mark.parametrize("method", ["pairs", "cells"])
@pytest.mark.parametrize("pbc", [(1, 1, 1), (1, 0, 1), (0, 0, 1)])
@pytest.mark.parametrize("cutoff", [2.0, 6.5])  # below and above the cell
def test_periodic_edges_are_all_pairs_and_images(method, pbc, cutoff):
    if method == "cells":
        pytest.importorskip("vesin")
    positions = torch.rand(4, 3, dtype=torch.double) @ SKEW
    positions[0] += SKEW[0] * 2 * pbc[0] - SKEW[2] * pbc[2]  # atoms may lie outside the cell
    flags = torch.tensor([pbc]).bool()
    edge_index, shifts = neighbor_list(positions, cutoff, None, SKEW[None], flags, method)
    assert as_set(edge_index, shifts) == reference(positions, cutoff, SKEW, pbc, 6)
    assert edge_index[1].diff().ge(0).all()
    vectors = positions[edge_index[0]] - positions[edge_index[1]] + shifts @ SKEW
    assert vectors.norm(dim=1).max() <= cutoff


def test_one_atom_sees_its_own_images():
    edge_index, shifts = neighbor_list(
        torch.zeros(1, 3), 1.5, None, torch.eye(3)[None], torch.ones(1, 3, dtype=torch.bool)
    )
    assert edge_index.shape == (2, 18) and edge_index.eq(0).all()  # 6 faces, 12 edges
    assert shifts.abs().sum(1).max() == 2


@pytest.mark.parametrize("method", ["pairs", "cells"])
def test_graphs_do_not_touch_and_order_of_atoms_is_free(method):
    if method == "cells":
        pytest.importorskip("vesin")
    positions = torch.randn(30, 3, dtype=torch.double) * 2
    batch = torch.randint(0, 3, (30,))
    edge_index, shifts = neighbor_list(positions, 2.5, batch, method=method)
    assert shifts is None
    near = torch.cdist(positions, positions) <= 2.5
    near &= (batch[:, None] == batch[None]) & ~torch.eye(30, dtype=torch.bool)
    assert set(map(tuple, edge_index.T.tolist())) == set(map(tuple, near.nonzero().tolist()))
    assert edge_index[1].diff().ge(0).all()


def test_periodic_and_free_graphs_share_a_batch():
    positions = torch.cat([torch.rand(3, 3) @ SKEW.float(), torch.randn(4, 3)])
    batch = torch.tensor([0] * 3 + [1] * 4)
    cell = torch.stack([SKEW.float(), torch.zeros(3, 3)])
    pbc = torch.tensor([[True] * 3, [False] * 3])
    edge_index, shifts = neighbor_list(positions, 3.0, batch, cell, pbc)
    crystal, _ = neighbor_list(positions[:3], 3.0, None, cell[:1], pbc[:1])
    molecule, _ = neighbor_list(positions[3:], 3.0)
    in_molecule = batch[edge_index[1]] == 1
    assert crystal.shape[1] == int((~in_molecule).sum()) and shifts[in_molecule].eq(0).all()
    assert torch.equal(edge_index[:, in_molecule] - 3, molecule)


def test_large_systems_need_the_cell_list(monkeypatch):
    monkeypatch.setattr(neighbors, "_MAX_PAIRS", 10)
    monkeypatch.setitem(__import__("sys").modules, "vesin", None)
    with pytest.raises(ImportError, match=r"pip install 'blockzoo\[molecules\]'"):
        neighbor_list(torch.randn(5, 3), 1.0)


def test_no_atoms_and_lone_atoms():
    assert neighbor_list(torch.zeros(0, 3), 1.0)[0].shape == (2, 0)
    assert neighbor_list(torch.tensor([[0.0, 0, 0], [9, 9, 9]]), 1.0)[0].shape == (2, 0)


def test_errors_name_the_argument():
    points, cell, pbc = torch.randn(3, 3), torch.eye(3)[None], torch.ones(1, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="positions has values that are not finite"):
        neighbor_list(points * float("nan"), 1.0)
    with pytest.raises(ValueError, match=r"positions has shape \(3, 2\)"):
        neighbor_list(points[:, :2], 1.0)
    with pytest.raises(ValueError, match="cutoff=0"):
        neighbor_list(points, 0)
    with pytest.raises(ValueError, match="method='tree'"):
        neighbor_list(points, 1.0, method="tree")
    with pytest.raises(ValueError, match="without a cell"):
        neighbor_list(points, 1.0, None, None, pbc)
    with pytest.raises(ValueError, match=r"must be \(B, 3, 3\) and \(B, 3\)"):
        neighbor_list(points, 1.0, None, cell[0], pbc)
    with pytest.raises(ValueError, match="cell has 1 rows for 2 graphs"):
        neighbor_list(points, 1.0, torch.tensor([0, 1, 1]), cell, pbc)
    flat = cell.clone()
    flat[0, 2] = flat[0, 1]
    for broken in (flat, cell * torch.tensor([1.0, 0.0, 1.0]).view(1, 3, 1)):
        with pytest.raises(ValueError, match="zero or depend on each other"):
            neighbor_list(points, 1.0, None, broken, pbc)
