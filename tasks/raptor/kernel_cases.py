"""Cases of the kernels of recurrent blocks for `blockzoo bench kernels`: sizes, floors and peers."""

import importlib.util
from typing import Any

import torch

from blockzoo.kernels.residual_norm import residual_norm, residual_norm_ref
from blockzoo.layers.attention.gated_linear import gated_linear_attention, gated_linear_attention_recurrent
from blockzoo.tasks.core.kernel_case import Case, Cases, Peer, draw

__all__ = ["CASES"]


def _residual_norm(batch: int, tokens: int, dim: int, device: str) -> Case:
    x, y = (draw(batch, tokens, dim, device=device) for _ in range(2))
    scale, weight, bias = (draw(dim, device=device) for _ in range(3))

    def reference(*inputs: Any) -> Any:
        return residual_norm_ref(inputs[0], inputs[1], inputs[2], None, inputs[3], inputs[4], 1e-5)

    def ours(*inputs: Any) -> Any:
        return residual_norm(inputs[0], inputs[1], inputs[2], None, inputs[3], inputs[4])

    launches = {"residual_norm": {"num_warps": [1, 2, 4, 8]}, "residual_norm_backward": {"num_warps": [1, 2, 4, 8]}}
    elements = batch * tokens * dim
    text, inputs = f"batch {batch}, {tokens} tokens of {dim}", [x, y, scale, weight, bias]
    return Case("residual_norm", launches, text, inputs, ours, reference, 10.0 * elements, 4.0 * 4 * elements)


def _linear_attention(batch: int, heads: int, tokens: int, keys: int, device: str) -> Case:
    q, k = (draw(batch, heads, tokens, keys, device=device) for _ in range(2))
    v, g = draw(batch, heads, tokens, 2 * keys, device=device), draw(batch, heads, tokens, keys, device=device)
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


CASES = {
    "residual_norm": Cases(_residual_norm, [(64, 261, 768), (8, 261, 768), (32, 192, 64)], (2, 65, 96)),
    "gated_linear_attention": Cases(_linear_attention, [(32, 12, 256, 32), (8, 12, 1024, 32)], (1, 2, 65, 8)),
}
"""By kernel."""
