"""Attention over the edges of a graph whose messages are products with the edge's spherical harmonics.

Source: "Tensor Decomposition Networks for Fast Machine Learning Interatomic Potential Computations" (2025), section
3.3, and its code; after "Equiformer" (2023). Only what is read is computed: the l = 0 rows of the maps to logits and
gates; and what follows the sum over edges is computed on nodes.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from blockzoo.kernels.edge_product import Segments, edge_product
from blockzoo.layers.equivariant.irreps import IrrepsLinear
from blockzoo.layers.equivariant.radial import RadialMLP
from blockzoo.layers.equivariant.segment import segment_softmax, segment_sum

__all__ = ["EdgeAttention", "EdgeDegree", "Edges"]


class Edges(NamedTuple):
    """What the layers know about the edges of a graph.

    Attributes:
        sender: Node that each edge comes from, (E,).
        receiver: Node that it goes to, (E,).
        matrix: Products with the edge's harmonics as matrices, (E, d, d), see
            `blockzoo.layers.equivariant.edge_product`.
        radial: Radial basis, (E, K).
        envelope: Smooth cutoff, (E, 1), or None.
        num_nodes: Number of nodes.
        incoming: The edges sorted by receiver, for kernels; None where none is used.
    """

    sender: torch.Tensor
    receiver: torch.Tensor
    matrix: torch.Tensor
    radial: torch.Tensor
    envelope: torch.Tensor | None
    num_nodes: int
    incoming: Segments | None = None


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

    def forward(self, edges: Edges) -> torch.Tensor:
        """Features of the nodes."""
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
        scalars_only: Compute the l = 0 rows of the result alone.
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

    def forward(self, x: torch.Tensor, edges: Edges) -> torch.Tensor:
        """Features of the nodes, from their neighbours'."""
        sender, receiver, count = edges.sender, edges.receiver, edges.num_nodes
        message = self.sender(x).index_select(0, sender).add_(self.receiver(x).index_select(0, receiver))
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
            return self.proj(edge_product(message, matrix, reduce=edges.incoming))
        return self.proj(segment_sum(torch.bmm(matrix, message), receiver, count))

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        """Products of `smooth_leaky_relu(x)`, slope 0.2, with the heads' vectors: (E, C) -> (E, H).

        That activation is a sum of x and SiLU, so two narrow matrices take the place of products and sums over (E, C).
        """
        heads = self.alpha.shape[0]
        eye = torch.eye(heads, dtype=self.alpha.dtype, device=self.alpha.device)
        matrix = (eye.unsqueeze(2) * self.alpha).flatten(1)  # (H, C), each head's vector in its own channels
        return F.linear(F.silu(x), 0.8 * matrix) + F.linear(x, 0.2 * matrix)
