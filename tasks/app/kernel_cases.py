"""What `blockzoo bench kernels` measures: operations at sizes, what they must move and compute, and their peers."""

import importlib.util
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from blockzoo.kernels.edge_product import edge_product, edge_product_ref, make_segments
from blockzoo.kernels.low_rank_product import low_rank_product, low_rank_product_ref
from blockzoo.kernels.period_conv import (
    period_candidates,
    period_conv,
    period_conv_folded,
    period_conv_gathered,
)
from blockzoo.kernels.residual_norm import residual_norm, residual_norm_ref
from blockzoo.kernels.separable_conv import separable_conv, separable_conv_ref
from blockzoo.kernels.spectral_mix import spectral_mix, spectral_mix_ref
from blockzoo.layers.attention.gated_linear import gated_linear_attention, gated_linear_attention_recurrent
from blockzoo.layers.equivariant.coupling import clebsch_gordan_tensor, paths
from blockzoo.layers.equivariant.edge_product import EdgeProduct
from blockzoo.tasks.molecules.bench import e3nn_product, flat_features

__all__ = ["CASES", "Case", "Peer"]


@dataclass
class Peer:
    """Another implementation of a case's function.

    Attributes:
        function: What is timed.
        inputs: Its arguments; None for those of the case.
        to_ours: Brings its result into our layout, to be compared.
    """

    function: Callable[..., Any]
    inputs: list[Any] | None = None
    to_ours: Callable[[torch.Tensor], torch.Tensor] | None = None


@dataclass
class Case:
    """One operation at one size.

    Attributes:
        kernel: File of the kernel, or of the layer.
        launches: Names of its launch configurations; none for what has no kernel of ours.
        size: For people.
        inputs: Arguments of all variants.
        ours: The public function.
        reference: Plain torch.
        flops: Operations of the forward pass.
        moved: Bytes that it must move.
        peers: Other implementations of the same function.
        trained: How many of the inputs get gradients, counted from the first; None for all, 0 for no training.
    """

    kernel: str
    launches: Mapping[str, Mapping[str, list[int]]]
    size: str
    inputs: list[Any]
    ours: Callable[..., Any]
    reference: Callable[..., Any]
    flops: float
    moved: float
    peers: dict[str, Peer] = field(default_factory=dict)
    trained: int | None = None


def _draw(*shape: int, device: str) -> torch.Tensor:
    return torch.randn(*shape, device=device)


def _period_conv(batch: int, steps: int, chans: int, hidden: int, device: str, top_k: int = 5, size: int = 11) -> Case:
    candidates = torch.tensor(period_candidates(steps))
    strongest = [min(len(candidates) - 1, place) for place in (len(candidates) - 4, 3, 7, 10, 14)][:top_k]
    periods = candidates[strongest]
    weights = _draw(batch, top_k, device=device).softmax(1)
    w1 = _draw(hidden, chans, size, size, device=device) / size
    w2 = _draw(chans, hidden, size, size, device=device) / size
    # Taps that meet the image: rows and columns cut off what lies outside.
    slots = [-(-steps // p) * p for p in periods.tolist()]
    taps = [min(size, 2 * -(-steps // p) - 1) * min(size, 2 * p - 1) for p in periods.tolist()]
    flops = sum(2 * 2 * batch * s * t * chans * hidden for s, t in zip(slots, taps, strict=True))
    moved = 4 * (2 * batch * steps * chans + 2 * batch * sum(slots) * hidden + w1.numel() + w2.numel())
    blocks = {"BLOCK_S": [32, 64, 128], "num_warps": [4, 8], "num_stages": [2, 3, 4]}
    x = _draw(batch, steps, chans, device=device)
    inputs = [x, periods.to(device), weights, w1, _draw(hidden, device=device), w2, _draw(chans, device=device)]
    launches = {"fold_conv": blocks, "fold_conv_weight": {**blocks, "SPLIT": [4, 8, 16]}}
    text = f"batch {batch}, {steps} steps, {chans}-{hidden} channels, {top_k} periods"
    peers = {"folded": Peer(period_conv_folded)}
    return Case("fold_conv", launches, text, inputs, period_conv, period_conv_gathered, flops, moved, peers)


def _edge_product(nodes: int, degree: int, rows: int, chans: int, device: str) -> Case:
    edges = nodes * degree
    receiver = torch.arange(nodes, device=device).repeat_interleave(degree)
    sender = (receiver + torch.randint(1, 4 * degree, (edges,), device=device)) % nodes  # neighbours are near
    gather, reduce = make_segments(sender, nodes), make_segments(receiver, nodes)
    x, weight = _draw(nodes, rows, chans, device=device), _draw(edges, chans, device=device)
    matrix = _draw(edges, rows, rows, device=device) / rows**0.5

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
    x, y = _draw(nodes, rows, chans, device=device), _draw(edges, rows, device=device)
    weight = _draw(edges, chans, device=device)

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


def _spectral_mix(batch: int, rows: int, columns: int, chans: int, device: str) -> Case:
    modes = rows * columns
    x, weight = _draw(batch, 2, modes, chans, device=device), _draw(modes, chans, chans, 2, device=device) / chans**0.5
    peers = {}
    if importlib.util.find_spec("neuralop") is not None:
        from neuralop.layers.spectral_convolution import _contract_dense

        spectrum = torch.complex(*x.unbind(1)).movedim(2, 1)  # (B, C, M)
        matrices = torch.view_as_complex(weight).permute(1, 2, 0)
        inputs = [tensor.unflatten(2, (rows, columns)).contiguous() for tensor in (spectrum, matrices)]

        def to_ours(out: torch.Tensor) -> torch.Tensor:
            return torch.view_as_real(out.flatten(2)).permute(0, 3, 2, 1)

        peers["neuraloperator"] = Peer(_contract_dense, inputs, to_ours)
    blocks = {"BLOCK_R": [16, 32], "BLOCK_S": [16, 32, 64], "BLOCK_T": [16, 32, 64], "num_warps": [2, 4, 8]}
    moved, flops = 8.0 * modes * chans * (2 * batch + chans), 8.0 * modes * batch * chans**2
    text = f"batch {batch}, {rows} x {columns} modes, {chans} channels"
    launches = {"spectral_mix": blocks}
    return Case("spectral_mix", launches, text, [x, weight], spectral_mix, spectral_mix_ref, flops, moved, peers)


def _separable_conv(batch: int, side: int, chans: int, out_chans: int, window: int, inverted: int, device: str) -> Case:
    """NASNet's form, or EMOv2's (inverted)."""
    x = _draw(batch, chans, side, side, device=device).contiguous(memory_format=torch.channels_last)
    residual = _draw(batch, out_chans, side, side, device=device).contiguous(memory_format=torch.channels_last)
    dw, pw = _draw(chans, 1, window, window, device=device) / window, _draw(out_chans, chans, 1, 1, device=device)
    dw_bias, bias = _draw(chans, device=device), _draw(out_chans, device=device)
    half, acts = window // 2, ("none", "silu") if inverted else ("relu", "none")

    def ours(x: torch.Tensor, dw: torch.Tensor, pw: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        if not inverted:
            return separable_conv(x, dw, pw, bias=rest[0], act_in="relu")
        return separable_conv(x, dw, pw, rest[0], residual=rest[1], act_mid="silu", skip=True)

    def reference(x: torch.Tensor, dw: torch.Tensor, pw: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        dw_bias, bias, residual = (rest[0], None, rest[1]) if inverted else (None, rest[0], None)
        geometry = (1, half, half, side, side, *acts, "none", bool(inverted))
        return separable_conv_ref(x, dw, dw_bias, pw, bias, residual, *geometry)

    inputs = [x, dw, pw / chans**0.5, *((dw_bias, residual) if inverted else (bias,))]
    pixels = batch * side**2
    flops = 2.0 * pixels * chans * (window**2 + out_chans)
    moved = 4.0 * pixels * (chans + (2 if inverted else 1) * out_chans)
    blocks = {"BLOCK_P": [32, 64, 128], "BLOCK_C": [16, 32, 64], "BLOCK_F": [64, 128, 256], "num_warps": [4, 8]}
    text = f"batch {batch}, {side} px, {chans}-{out_chans} channels, window {window}{', inverted' * inverted}"
    return Case("separable_conv", {"separable_conv": blocks}, text, inputs, ours, reference, flops, moved, trained=0)


def _low_rank(count: int, rows: int, rank: int, chans: int, device: str) -> Case:
    x1, x2 = (_draw(count, rows, chans, device=device) for _ in range(2))
    factors = [_draw(rows, rank, device=device) / rank**0.5 for _ in range(3)]
    flops, moved = 2.0 * 3 * count * rows * rank * chans, 4.0 * 3 * count * rows * chans
    blocks = {"BLOCK_R": [16, 32, 64], "BLOCK_C": [32, 64, 128], "num_warps": [2, 4, 8]}
    text = f"{count} rows of {rows} x {chans}, rank {rank}"
    launches = {"low_rank_product": blocks}
    inputs = [x1, x2, *factors]
    return Case("low_rank_product", launches, text, inputs, low_rank_product, low_rank_product_ref, flops, moved,
                trained=2)  # fmt: skip


def _residual_norm(batch: int, tokens: int, dim: int, device: str) -> Case:
    x, y = (_draw(batch, tokens, dim, device=device) for _ in range(2))
    scale, weight, bias = (_draw(dim, device=device) for _ in range(3))

    def reference(*inputs: Any) -> Any:
        return residual_norm_ref(inputs[0], inputs[1], inputs[2], None, inputs[3], inputs[4], 1e-5)

    def ours(*inputs: Any) -> Any:
        return residual_norm(inputs[0], inputs[1], inputs[2], None, inputs[3], inputs[4])

    launches = {"residual_norm": {"num_warps": [1, 2, 4, 8]}, "residual_norm_backward": {"num_warps": [1, 2, 4, 8]}}
    elements = batch * tokens * dim
    text, inputs = f"batch {batch}, {tokens} tokens of {dim}", [x, y, scale, weight, bias]
    return Case("residual_norm", launches, text, inputs, ours, reference, 10.0 * elements, 4.0 * 4 * elements)


def _linear_attention(batch: int, heads: int, tokens: int, keys: int, device: str) -> Case:
    q, k = (_draw(batch, heads, tokens, keys, device=device) for _ in range(2))
    v, g = _draw(batch, heads, tokens, 2 * keys, device=device), _draw(batch, heads, tokens, keys, device=device)
    inputs = [q, k, v, torch.nn.functional.logsigmoid(g) / 16]

    def ours(*inputs: Any) -> torch.Tensor:
        return gated_linear_attention(*inputs)[0]

    def recurrent(*inputs: torch.Tensor) -> torch.Tensor:
        return gated_linear_attention_recurrent(*inputs)[0]

    # The chunked form is the reference, since compiling the recurrence would unroll it token by token.
    peers = {"recurrent": Peer(recurrent)}
    if device == "cuda" and importlib.util.find_spec("fla") is not None:
        from fla.ops.gla import chunk_gla

        def fla(*inputs: torch.Tensor) -> torch.Tensor:
            return chunk_gla(*(part.transpose(1, 2).contiguous() for part in inputs))[0].transpose(1, 2)

        peers["flash-linear-attention"] = Peer(fla)
    count = batch * heads * tokens * keys
    text = f"batch {batch}, {heads} heads, {tokens} tokens, {keys} keys"
    flops, moved = 2.0 * 2 * count * 2 * keys, 4.0 * 7 * count
    return Case("gated_linear_attention", {}, text, inputs, ours, ours, flops, moved, peers)


CASES: dict[str, tuple[Callable[..., Case], list[tuple[int, ...]], tuple[int, ...]]] = {
    "fold_conv": (_period_conv, [(32, 192, 16, 32), (32, 192, 32, 32), (32, 192, 64, 64)], (2, 48, 8, 8)),
    "edge_product": (_edge_product, [(4000, 25, 4, 128), (4000, 25, 9, 128), (4000, 25, 25, 64)], (50, 8, 9, 32)),
    "edge_product_harmonics": (
        _edge_harmonics,
        [(4000, 25, 1, 128), (4000, 25, 2, 128), (4000, 25, 3, 64)],
        (9, 4, 2, 8),
    ),
    "low_rank_product": (_low_rank, [(10000, 9, 28, 128), (10000, 16, 63, 128)], (100, 9, 28, 32)),
    "residual_norm": (_residual_norm, [(64, 261, 768), (8, 261, 768), (32, 192, 64)], (2, 65, 96)),
    "separable_conv": (
        _separable_conv,
        [(8, 42, 168, 168, 5, 0), (8, 21, 336, 336, 7, 0), (8, 14, 640, 160, 5, 1), (64, 28, 216, 72, 5, 1)],
        (1, 9, 12, 8, 5, 1),
    ),
    "spectral_mix": (_spectral_mix, [(32, 32, 17, 64), (16, 64, 33, 32), (4, 64, 33, 128)], (2, 8, 5, 8)),
    "gated_linear_attention": (_linear_attention, [(32, 12, 256, 32), (8, 12, 1024, 32)], (1, 2, 65, 8)),
}
"""For each kernel: how a case is made, sizes for a GPU, and one for a CPU."""
