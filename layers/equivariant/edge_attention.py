"""Attention over the edges of a graph whose messages are products with the edge's spherical harmonics.

Source: "Tensor Decomposition Networks for Fast Machine Learning Interatomic Potential Computations" (2025), section
3.3, and its code; after "Equiformer" (2023). Only results that are used are computed: the maps to logits and gates have
only l = 0 rows. Everything after the sum over edges is computed on nodes.

A layer keeps about 16 kB for the gradient of each edge at 32 channels and l_max 1, and a large structure has a million
edges. `EdgeParts` describes such a graph: layers process the edges of some receivers at a time, and compute each part
again for its gradient. Every sum over edges ends at a receiver, so that results are the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from blockzoo.kernels.edge_product import Segments, edge_product
from blockzoo.layers.equivariant.irreps import IrrepsLinear
from blockzoo.layers.equivariant.radial import RadialMLP
from blockzoo.layers.equivariant.segment import segment_softmax, segment_sum

__all__ = ["EdgeAttention", "EdgeDegree", "EdgeParts", "Edges", "split_edges"]


class Edges(NamedTuple):
    """Edges of a graph, as the layers need them.

    Attributes:
        sender: Node that each edge comes from, (E,).
        receiver: Node that it goes to, (E,).
        matrix: Products with the edge's harmonics as matrices, (E, d, d), see
            `blockzoo.layers.equivariant.edge_product`.
        radial: Radial basis, (E, K).
        envelope: Factor that goes smoothly to 0 at the cutoff, (E, 1), or None.
        num_nodes: Number of receivers.
        incoming: The edges sorted by receiver, for kernels; None if no kernel is used.
    """

    sender: torch.Tensor
    receiver: torch.Tensor
    matrix: torch.Tensor
    radial: torch.Tensor
    envelope: torch.Tensor | None
    num_nodes: int
    incoming: Segments | None = None


@dataclass(frozen=True)
class EdgeParts:
    """Edges of a graph in parts, to save memory: a part has all edges of some receivers.

    Attributes:
        describe: Called only while a part is computed: the function (vectors (E', 3), sender (E',), receiver (E',),
            number of receivers) -> `Edges`.
        vectors: Edge vectors of each part, (E', 3).
        sender: Senders of each part, (E',), among all nodes.
        receiver: Receivers of each part, (E',), counted from the part's first.
        num_receivers: Receivers of each part; together all nodes, in order.
    """

    describe: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int], Edges]
    vectors: tuple[torch.Tensor, ...]
    sender: tuple[torch.Tensor, ...]
    receiver: tuple[torch.Tensor, ...]
    num_receivers: list[int]


def split_edges(
    describe: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int], Edges],
    vectors: torch.Tensor,
    sender: torch.Tensor,
    receiver: torch.Tensor,
    num_nodes: int,
    limit: int,
) -> EdgeParts:
    """Cut a graph into parts of at most `limit` edges; a receiver with more edges is a part of its own.

    Args:
        describe: See `EdgeParts`.
        vectors: Edge vectors, (E, 3).
        sender: Node that each edge comes from, (E,).
        receiver: Node that it goes to, (E,), in any order.
        num_nodes: Number of nodes.
        limit: Edges in a part.
    """
    if bool((receiver[1:] < receiver[:-1]).any()):
        order = receiver.argsort(stable=True)
        vectors, sender, receiver = vectors[order], sender[order], receiver[order]
    ends = torch.bincount(receiver, minlength=num_nodes).cumsum(0).tolist()  # of each receiver's edges
    nodes, cuts = [0], [0]
    for node in range(1, num_nodes):
        if ends[node] - cuts[-1] > limit and nodes[-1] < node:
            nodes.append(node)
            cuts.append(ends[node - 1])
    sizes = [after - before for before, after in zip(cuts, [*cuts[1:], len(receiver)], strict=True)]
    counts = [after - before for before, after in zip(nodes, [*nodes[1:], num_nodes], strict=True)]
    local = [part - first for part, first in zip(receiver.split(sizes), nodes, strict=True)]
    return EdgeParts(describe, vectors.split(sizes), sender.split(sizes), tuple(local), counts)


def _over_parts(
    layer: Callable[[Edges, torch.Tensor, torch.Tensor], torch.Tensor],
    edges: EdgeParts,
    sent: torch.Tensor,
    received: torch.Tensor,
) -> torch.Tensor:
    """Apply a sum over edges part by part; each part is computed again for its gradient.

    Args:
        layer: Function (edges, sent (N, ...), received (N', ...)) -> (N', ...) for the N' receivers of a part.
        edges: The parts.
        sent: Features of all nodes as senders, (N, ...).
        received: Features of all nodes as receivers, (N, ...).
    """

    def one(vectors: torch.Tensor, sender: Any, receiver: Any, sent: Any, received: torch.Tensor) -> torch.Tensor:
        return layer(edges.describe(vectors, sender, receiver, received.shape[0]), sent, received)

    parts = zip(edges.vectors, edges.sender, edges.receiver, received.split(edges.num_receivers), strict=True)
    found = [
        checkpoint(one, vectors, sender, receiver, sent, rows, use_reentrant=False)
        for vectors, sender, receiver, rows in parts
    ]
    return torch.cat(found)


def _edge_weight(mlp: RadialMLP, edges: Edges) -> torch.Tensor:
    weight = mlp(edges.radial)
    return weight if edges.envelope is None else weight * edges.envelope


def smooth_leaky_relu(x: torch.Tensor, slope: float = 0.2) -> torch.Tensor:
    """Return x above zero and slope * x below, with a smooth bend."""
    return x * (slope + (1 - slope) * x.sigmoid())


class EdgeDegree(nn.Module):
    """First features of all degrees: the harmonics of a node's edges, weighted by distance and summed.

    Args:
        channels: Channels C.
        num_basis: Radial basis functions.
        radial_hidden: Width of the radial MLP.
        avg_degree: Typical number of neighbours; the sum is divided by its square root.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Shape:
        Edges -> (num_nodes, d, C).
    """

    def __init__(self, channels: int, num_basis: int, radial_hidden: int, avg_degree: float, **dd: Any) -> None:
        super().__init__()
        self.avg_degree = avg_degree
        self.scalar = nn.Parameter(torch.empty(channels, **dd).uniform_(-1, 1))
        self.radial = RadialMLP(num_basis, radial_hidden, channels, **dd)
        self.proj = IrrepsLinear(channels, channels, bias=False, **dd)
        self.bias = nn.Parameter(torch.zeros(channels, **dd))

    def forward(self, edges: Edges | EdgeParts) -> torch.Tensor:
        """Features of the nodes."""
        if isinstance(edges, EdgeParts):
            nothing = edges.vectors[0].new_zeros(sum(edges.num_receivers), 0)
            return _over_parts(lambda part, *_: self(part), edges, nothing, nothing)
        weight = _edge_weight(self.radial, edges) * self.scalar
        harmonics = edges.matrix[:, :, 0].to(weight.dtype)
        summed = segment_sum(harmonics.unsqueeze(2) * weight.unsqueeze(1), edges.receiver, edges.num_nodes)
        ones = torch.ones_like(harmonics[:, :1]) if edges.envelope is None else edges.envelope.to(weight.dtype)
        degree = segment_sum(ones, edges.receiver, edges.num_nodes)
        out = self.proj(summed)
        bias = (degree * self.bias).to(out.dtype).unsqueeze(1)
        return (out + F.pad(bias, (0, 0, 0, out.shape[1] - 1))) * self.avg_degree**-0.5


class EdgeAttention(nn.Module):
    """Each node attends to its edges; logits and values come from products with the edge's harmonics.

    Args:
        channels: Channels C, divisible by `num_heads`.
        num_basis: Radial basis functions.
        radial_hidden: Width of the radial MLP.
        num_heads: Attention heads.
        drop_rate: Dropout on the attention weights.
        scalars_only: Compute only the l = 0 rows of the result.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Shape:
        (N, d, C) -> (N, d, C), or (N, 1, C) with `scalars_only`.

    Raises:
        ValueError: The channels are not divisible by the heads.
    """

    def __init__(
        self,
        channels: int,
        num_basis: int,
        radial_hidden: int,
        num_heads: int,
        drop_rate: float = 0.0,
        scalars_only: bool = False,
        **dd: Any,
    ) -> None:
        super().__init__()
        if num_heads < 1 or channels % num_heads:
            raise ValueError(f"hidden_channels={channels} must be divisible by num_heads={num_heads}")
        self.num_heads, self.scalars_only = num_heads, scalars_only
        self.sender = IrrepsLinear(channels, channels, **dd)
        self.receiver = IrrepsLinear(channels, channels, bias=False, **dd)
        self.radial = RadialMLP(num_basis, radial_hidden, channels, **dd)
        self.scalars = nn.Linear(channels, 2 * channels, **dd)  # from l = 0: into the logits, and gates of the values
        self.value = nn.Linear(channels, channels, **dd)  # for all degrees; the bias is for l = 0
        self.alpha = nn.Parameter(torch.empty(num_heads, channels // num_heads, **dd))
        nn.init.xavier_uniform_(self.alpha)
        nn.init.zeros_(self.scalars.bias)
        nn.init.zeros_(self.value.bias)
        self.drop = nn.Dropout(drop_rate)
        self.proj = IrrepsLinear(channels, channels, **dd)

    def forward(self, x: torch.Tensor, edges: Edges | EdgeParts) -> torch.Tensor:
        """Features of the nodes, from their neighbours'."""
        sent, received = self.sender(x), self.receiver(x)
        if isinstance(edges, EdgeParts):
            return self.proj(_over_parts(self._attend, edges, sent, received))
        return self.proj(self._attend(edges, sent, received))

    def _attend(self, edges: Edges, sent: torch.Tensor, received: torch.Tensor) -> torch.Tensor:
        """Sums of weighted messages (N', d, C), from all nodes as senders (N, d, C) and the receivers (N', d, C)."""
        sender, receiver, count = edges.sender, edges.receiver, edges.num_nodes
        message = sent.index_select(0, sender).add_(received.index_select(0, receiver))
        weight = _edge_weight(self.radial, edges)
        # Degree 0 and the others part here and meet again at the second product: both need other maps.
        scalar, others = torch.bmm(edges.matrix.to(message.dtype), message).split([1, message.shape[1] - 1], 1)
        scalar = scalar.squeeze(1) * weight.to(message.dtype)
        others = others * weight.unsqueeze(1).to(message.dtype)

        maps = torch.cat([self.scalars.weight, self.value.weight]), torch.cat([self.scalars.bias, self.value.bias])
        into_logits, gates, scalar = F.linear(scalar, *maps).chunk(3, -1)
        logits = self._logits(into_logits)
        attention = self.drop(segment_softmax(logits, receiver, count, edges.envelope))
        # The weights of the second product, the attention and the gates are factors of channels: one pass applies all.
        weight = (weight.unflatten(1, self.alpha.shape) * attention.unsqueeze(-1)).flatten(1)
        others = F.linear(others, self.value.weight)
        others = others * (gates.sigmoid() * weight).unsqueeze(1).to(others.dtype)
        scalar = (F.silu(scalar) * weight).unsqueeze(1).to(others.dtype)
        matrix = edges.matrix[:, :1] if self.scalars_only else edges.matrix
        matrix, message = matrix.to(others.dtype), torch.cat([scalar, others], 1)
        if edges.incoming is not None:
            return edge_product(message, matrix, reduce=edges.incoming)
        return segment_sum(torch.bmm(matrix, message), receiver, count)

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        """Products of `smooth_leaky_relu(x)`, slope 0.2, with the heads' vectors: (E, C) -> (E, H).

        That activation is a sum of x and SiLU, so two narrow matrices replace products and sums over (E, C).
        """
        heads = self.alpha.shape[0]
        eye = torch.eye(heads, dtype=self.alpha.dtype, device=self.alpha.device)
        matrix = (eye.unsqueeze(2) * self.alpha).flatten(1)  # (H, C), each head's vector in its own channels
        return F.linear(F.silu(x), 0.8 * matrix) + F.linear(x, 0.2 * matrix)
