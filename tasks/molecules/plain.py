"""Plain formulations, like the published code, as references of `blockzoo bench equivariant`."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from blockzoo.layers.equivariant.edge_attention import EdgeAttention, EdgeDegree, smooth_leaky_relu
from blockzoo.layers.equivariant.segment import segment_softmax, segment_sum
from blockzoo.layers.equivariant.spherical_harmonics import spherical_harmonics

__all__ = ["plain_energy_forces"]


def _product(model: Any, x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The CP product as published, one contraction of all operands."""
    a, b, c = model.product.a, model.product.b, model.product.c
    return torch.einsum("eiu,ir,ej,jr,kr,eu->eku", x, a, y, b, c, weight)


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    x = F.linear(x, weight)
    if bias is not None:
        x[:, 0] += bias
    return x


def _gate(x: torch.Tensor) -> torch.Tensor:
    values, gates = x.chunk(2, -1)
    return torch.cat([F.silu(values[:, :1]), values[:, 1:] * gates[:, :1].sigmoid()], 1)


def _degree(model: Any, layer: EdgeDegree, radial: torch.Tensor, y: torch.Tensor, edges: Any) -> torch.Tensor:
    constant = radial.new_zeros(edges.num_nodes, y.shape[1], layer.scalar.shape[0])
    constant[:, 0] = layer.scalar
    features = _product(model, constant[edges.sender], y, layer.radial(radial))
    features = _linear(features, layer.proj.weight, layer.bias)
    return segment_sum(features, edges.receiver, edges.num_nodes) / layer.avg_degree**0.5


def _attention(model: Any, layer: EdgeAttention, x: torch.Tensor, radial: torch.Tensor, y: torch.Tensor, edges: Any):  # type: ignore[no-untyped-def]
    heads = layer.alpha.shape
    message = _linear(x, layer.sender.weight, layer.sender.bias)[edges.sender]
    message = message + _linear(x, layer.receiver.weight, None)[edges.receiver]
    weight = layer.radial(radial)
    message = _product(model, message, y, weight)
    into_logits, into_gates = layer.scalars.weight.chunk(2)
    bias_logits, bias_gates = layer.scalars.bias.chunk(2)
    logits = _linear(message, into_logits, bias_logits)[:, 0].unflatten(1, heads)
    logits = (smooth_leaky_relu(logits) * layer.alpha).sum(-1)
    attention = segment_softmax(logits, edges.receiver, edges.num_nodes)
    both = torch.cat([layer.value.weight, into_gates]), torch.cat([layer.value.bias, bias_gates])
    value = _product(model, _gate(_linear(message, *both)), y, weight)
    value = value.unflatten(2, heads) * attention[:, None, :, None]
    return _linear(segment_sum(value.flatten(2), edges.receiver, edges.num_nodes), layer.proj.weight, layer.proj.bias)


def plain_energy_forces(
    model: nn.Module, positions: torch.Tensor, atomic_numbers: torch.Tensor, edge_index: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Energy and forces of one molecule as the published code computes them, from the weights of a model of ours.

    Args:
        model: A `blockzoo.tdn.TDN` with `product="cp"`, `extensive=False` and gradient forces.
        positions: (N, 3).
        atomic_numbers: (N,).
        edge_index: (2, E).
    """
    net: Any = model
    positions = positions.detach().requires_grad_()
    vectors = positions[edge_index[0]] - positions[edge_index[1]]
    y = spherical_harmonics(vectors, net.l_max)
    radial = net.basis(vectors.norm(dim=1))
    edges = net._edges(vectors.detach(), edge_index, positions.shape[0])
    x = F.pad(net.embed(atomic_numbers).unsqueeze(1), (0, 0, 0, y.shape[1] - 1))
    x = x + _degree(net, net.degree, radial, y, edges)
    for block in net.blocks:
        x = x + _attention(net, block.attn, block.norm1(x), radial, y, edges)
        hidden = block.norm2(x)
        # The last block of ours has no gates: what they would scale is never read. Any matrix costs the same.
        gates = block.fc1 if block.gates is None else block.gates
        both = torch.cat([block.fc1.weight, gates.weight]), torch.cat([block.fc1.bias, gates.bias])
        x = x + _linear(_gate(_linear(hidden, *both)), block.fc2.weight, block.fc2.bias)
    x = net.norm(x)
    hidden = _linear(x, net.head[0].weight, net.head[0].bias)
    hidden = torch.cat([F.silu(hidden[:, :1]), hidden[:, 1:]], 1)
    parts = _linear(hidden, net.head[2].weight, net.head[2].bias)[:, 0, 0]
    energy = parts.sum() / 36.6**0.5
    (gradient,) = torch.autograd.grad(energy, positions, create_graph=True)
    return energy, -gradient
