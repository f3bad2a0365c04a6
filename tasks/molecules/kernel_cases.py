"""The kernels of equivariant models, as `blockzoo bench kernels` measures them: sizes, floors and peers."""

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import torch

from blockzoo.kernels.edge_product import edge_product, edge_product_ref, make_segments
from blockzoo.kernels.low_rank_product import low_rank_product, low_rank_product_ref
from blockzoo.layers.equivariant.coupling import clebsch_gordan_tensor, paths
from blockzoo.layers.equivariant.edge_product import EdgeProduct
from blockzoo.tasks.core.kernel_case import Case, Cases, Peer, draw
from blockzoo.tasks.molecules.bench import e3nn_product, flat_features

__all__ = ["CASES"]


def _edge_product(nodes: int, degree: int, rows: int, chans: int, device: str) -> Case:
    edges = nodes * degree
    receiver = torch.arange(nodes, device=device).repeat_interleave(degree)
    sender = (receiver + torch.randint(1, 4 * degree, (edges,), device=device)) % nodes  # neighbours are near
    gather, reduce = make_segments(sender, nodes), make_segments(receiver, nodes)
    x, weight = draw(nodes, rows, chans, device=device), draw(edges, chans, device=device)
    matrix = draw(edges, rows, rows, device=device) / rows**0.5

    def ours(x: torch.Tensor, matrix: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return edge_product(x, matrix, weight, gather, reduce)

    def reference(x: torch.Tensor, matrix: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return edge_product_ref(x, matrix, weight, sender, receiver, nodes)

    moved = 4 * (2 * nodes * rows * chans + edges * (rows * rows + chans)) + 24 * edges
    blocks = {"BLOCK_C": [32, 64, 128], "num_warps": [1, 2, 4]}
    launches = {"edge_product": blocks, "edge_product_matrix": blocks, "edge_product_weight": blocks}
    text = f"{nodes} nodes, {edges} edges, {rows} x {rows}, {chans} channels"
    flops = 2.0 * edges * chans * rows * (rows + 1)
    return Case("edge_product", launches, text, [x, matrix, weight], ours, reference, flops, moved)


def _fields(flat: torch.Tensor, l_max: int) -> torch.Tensor:
    """Undo `flat_features`: (N, channels of each degree) -> (N, (l_max + 1)^2, C)."""
    chans = flat.shape[1] // (l_max + 1) ** 2
    parts = flat.split([chans * (2 * degree + 1) for degree in range(l_max + 1)], 1)
    return torch.cat([part.unflatten(1, (chans, -1)).mT for part in parts], 1)


def _cuequivariance_product(l_max: int, chans: int, device: str) -> tuple[Any, Callable[[torch.Tensor], torch.Tensor]]:
    """The product of features and harmonics of cuEquivariance, and what makes its result ours."""
    import cuequivariance as cue
    from cuequivariance.group_theory.experimental.e3nn import O3_e3nn
    from cuequivariance_torch import ChannelWiseTensorProduct

    features, harmonics = (
        cue.Irreps(O3_e3nn, "+".join(f"{count}x{degree}e" for degree in range(l_max + 1))) for count in (chans, 1)
    )
    kept = [O3_e3nn(degree, 1) for degree in range(l_max + 1)]
    options = {"layout": cue.mul_ir, "shared_weights": False, "internal_weights": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says when it has no kernels, as the name of the variant does
        product = ChannelWiseTensorProduct(features, harmonics, kept, **options).to(device)

    def to_ours(out: torch.Tensor) -> torch.Tensor:
        """Sum the paths of each degree, which it gives apart and scaled to another norm."""
        sums = [out.new_zeros(len(out), chans * (2 * degree + 1)) for degree in range(l_max + 1)]
        start = 0
        for count, irrep in product.irreps_out:
            width = count * irrep.dim
            sums[irrep.l] = sums[irrep.l] + out[:, start : start + width] / irrep.dim**0.5
            start += width
        return _fields(torch.cat(sums, 1), l_max)

    return product, to_ours


def _edge_harmonics(nodes: int, degree: int, l_max: int, chans: int, device: str) -> Case:
    edges, rows = nodes * degree, (l_max + 1) ** 2
    receiver = torch.arange(nodes, device=device).repeat_interleave(degree)
    sender = (receiver + torch.randint(1, 4 * degree, (edges,), device=device)) % nodes
    gather, reduce = make_segments(sender, nodes), make_segments(receiver, nodes)
    layer = EdgeProduct(clebsch_gordan_tensor(l_max, l_max, l_max)).to(device)
    x, y = draw(nodes, rows, chans, device=device), draw(edges, rows, device=device)
    weight = draw(edges, chans, device=device)

    def ours(x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return edge_product(x, layer.matrix(y), weight, gather, reduce)

    def reference(x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return edge_product_ref(x, layer.matrix(y), weight, sender, receiver, nodes)

    def around(product: Any) -> Callable[..., torch.Tensor]:
        def run(x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            out = product(x.index_select(0, sender), y, weight)
            return out.new_zeros(nodes, out.shape[1]).index_add(0, receiver, out)

        return run

    # Their weights are those of every path, the same for each here.
    inputs = [flat_features(x, l_max).contiguous(), y, weight.repeat(1, len(paths(l_max, l_max, l_max)))]
    theirs = e3nn_product(l_max, chans, True).to(device)
    peers = {"e3nn": Peer(around(theirs), inputs, lambda out: _fields(out, l_max))}
    if importlib.util.find_spec("cuequivariance_torch") is not None:
        product, to_ours = _cuequivariance_product(l_max, chans, device)
        has_kernels = importlib.util.find_spec("cuequivariance_ops_torch") is not None
        peers["cuEquivariance" + " without its kernels" * (not has_kernels)] = Peer(around(product), inputs, to_ours)
    flops = 2.0 * edges * rows * (chans * (rows + 1) + rows**2)
    moved = 4 * (2 * nodes * rows * chans + edges * (rows + chans)) + 24 * edges
    text = f"{nodes} nodes, {edges} edges, harmonics to degree {l_max}, {chans} channels"
    return Case("edge_product", {}, text, [x, y, weight], ours, reference, flops, moved, peers)


def _low_rank(count: int, rows: int, rank: int, chans: int, device: str) -> Case:
    x1, x2 = (draw(count, rows, chans, device=device) for _ in range(2))
    factors = [draw(rows, rank, device=device) / rank**0.5 for _ in range(3)]
    flops, moved = 2.0 * 3 * count * rows * rank * chans, 4.0 * 3 * count * rows * chans
    blocks = {"BLOCK_R": [16, 32, 64], "BLOCK_C": [32, 64, 128], "num_warps": [2, 4, 8]}
    text = f"{count} rows of {rows} x {chans}, rank {rank}"
    launches = {"low_rank_product": blocks}
    inputs = [x1, x2, *factors]
    return Case("low_rank_product", launches, text, inputs, low_rank_product, low_rank_product_ref, flops, moved,
                trained=2)  # fmt: skip


CASES = {
    "edge_product": Cases(_edge_product, [(4000, 25, 4, 128), (4000, 25, 9, 128), (4000, 25, 25, 64)], (50, 8, 9, 32)),
    "edge_product_harmonics": Cases(
        _edge_harmonics, [(4000, 25, 1, 128), (4000, 25, 2, 128), (4000, 25, 3, 64)], (9, 4, 2, 8)
    ),
    "low_rank_product": Cases(_low_rank, [(10000, 9, 28, 128), (10000, 16, 63, 128)], (100, 9, 28, 32)),
}
"""By kernel."""
